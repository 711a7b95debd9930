package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// sampleEach is how often processes are asked for their memory. To answer takes the system
// some milliseconds for a gigabyte of small pages.
const sampleEach = 200 * time.Millisecond

// footprint is what processes had in memory, in bytes: proportional set sizes, where of a
// page that several have each counts its share.
type footprint struct {
	// Peak is the most that all of them had at once.
	Peak float64
	// Bound is what that would be if all had the most of their own memory at the same time:
	// the sum of what each had of its own at most, and the most that they had of files. It
	// does not depend on who was where at which time, as Peak does, and is no less.
	Bound float64
}

// watch looks at the processes' memory until all have ended, which ended says.
func watch(processes []*exec.Cmd, ended <-chan error) (footprint, error) {
	var most footprint
	var files float64
	own := make([]float64, len(processes))
	for {
		now := footprint{}
		mapped := 0.0
		for i, p := range processes {
			pages, err := pagesOf(p.Process.Pid)
			if errors.Is(err, errKinds) {
				return most, errors.Join(err, <-ended)
			}
			if err != nil {
				continue // It has ended.
			}
			own[i] = max(own[i], pages.own)
			mapped += pages.files
			now.Peak += pages.own + pages.files
		}
		most.Peak, files = max(most.Peak, now.Peak), max(files, mapped)
		select {
		case err := <-ended:
			most.Bound = files
			for i, bytes := range own {
				if bytes == 0 && err == nil {
					err = fmt.Errorf("process %d ended before its memory was seen", i)
				}
				most.Bound += bytes
			}
			return most, err
		case <-time.After(sampleEach):
		}
	}
}

// pages are a process' part of memory: what no file has, and pages of files.
type pages struct{ own, files float64 }

// errKinds: the system does not say what kinds of pages a process has.
var errKinds = errors.New("this system's smaps_rollup does not tell memory of files from other memory: Linux 5.8 does")

// pagesOf asks the system. It fails once the process has ended.
func pagesOf(pid int) (pages, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err == nil && len(b) == 0 {
		err = os.ErrProcessDone
	}
	if err != nil {
		return pages{}, err
	}
	var p pages
	seen := false
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			continue
		}
		var to *float64
		switch fields[0] {
		case "Pss_Anon:":
			to, seen = &p.own, true
		case "Pss_File:", "Pss_Shmem:":
			to = &p.files
		default:
			continue
		}
		kib, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return pages{}, fmt.Errorf("process %d: %s %w", pid, fields[0], err)
		}
		*to += float64(kib << 10)
	}
	if !seen {
		return pages{}, errKinds
	}
	return p, nil
}
