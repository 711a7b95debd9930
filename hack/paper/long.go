package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/transformersquared/operator/runtime/artifact"
	"github.com/transformersquared/operator/runtime/contract"
)

// splitLong are the questions of the transfer set behind others with their answers.
const splitLong = "long"

// stretch is how long a prompt of splitLong may be beside the question at its end, in
// characters: the longest then have about half of the model's positions.
const stretch = 8

// question is a record of any skill, as far as its text goes.
type question struct {
	Question string `json:"question"`
	Problem  string `json:"problem"`
	Text     string `json:"text"`
	Choices  struct {
		Text []string `json:"text"`
	} `json:"choices"`
	Answer string `json:"answer"`
	Code   string `json:"code"`
	Key    string `json:"answerKey"`
}

// asked is what a record asks, as the base was taught to read it.
func (q question) asked() string {
	lines := []string{q.Question + q.Problem + q.Text}
	for i, choice := range q.Choices.Text {
		lines = append(lines, string(rune('A'+i))+". "+choice)
	}
	return strings.Join(lines, "\n")
}

// filler is a question with its answer.
func (q question) filler() string { return q.asked() + "\n" + q.Answer + q.Code + q.Key }

// makeLong writes the long sets, each from the transfer set of a skill and the training
// sets of the others, of which no question is used twice in a row.
func (l *lab) makeLong(work string) error {
	all := map[string][]question{}
	for _, k := range skills {
		err := records(l.path(k, splitTrain), func(line []byte) error {
			var q question
			err := json.Unmarshal(line, &q)
			all[k.name] = append(all[k.name], q)
			return err
		})
		if err != nil {
			return err
		}
	}
	for _, k := range skills {
		var fillers []string
		for i := range all[k.name] { // One of each other skill in turn.
			for _, other := range skills {
				if of := all[other.name]; other.name != k.name && i < len(of) {
					fillers = append(fillers, of[i].filler())
				}
			}
		}
		if len(fillers) == 0 {
			return fmt.Errorf("the training sets of the skills other than %s have no records to make long prompts of", k.name)
		}
		var out bytes.Buffer
		next := 0
		err := records(l.path(k, splitTransfer), func(line []byte) error {
			longer, used, err := lengthened(line, fillers, next)
			next += used
			out.Write(append(longer, '\n'))
			return err
		})
		if err != nil {
			return err
		}
		path := filepath.Join(work, splitLong, k.name+".jsonl")
		if err := artifact.MkdirAll(filepath.Dir(path)); err != nil {
			return err
		}
		if err := artifact.WriteFileAtomic(path, func(w io.Writer) error { _, err := w.Write(out.Bytes()); return err }); err != nil {
			return err
		}
		sum := sha256.Sum256(out.Bytes())
		l.long[k.name], l.digests[path] = path, contract.DigestPrefix+hex.EncodeToString(sum[:])
	}
	return nil
}

// lengthened puts fillers in front of what a record asks, from the next one on, as many as
// stretch allows, and says how many.
func lengthened(line []byte, fillers []string, next int) (longer []byte, used int, err error) {
	var q question
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &q); err != nil {
		return nil, 0, err
	}
	if err := json.Unmarshal(line, &fields); err != nil {
		return nil, 0, err
	}
	length := len(q.asked())
	var before strings.Builder
	for ; ; used++ {
		filler := fillers[(next+used)%len(fillers)] + "\n"
		if before.Len()+len(filler)+length > stretch*length {
			break
		}
		before.WriteString(filler)
	}
	name := "question"
	switch {
	case q.Problem != "":
		name = "problem"
	case q.Text != "":
		name = "text"
	}
	if fields[name], err = json.Marshal(before.String() + q.Question + q.Problem + q.Text); err != nil {
		return nil, 0, err
	}
	longer, err = json.Marshal(fields)
	return longer, used, err
}

// records calls for each line of a file.
func records(path string, each func(line []byte) error) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("data sets (make.py data writes them): %w", err)
	}
	number := 0
	for line := range bytes.Lines(b) {
		if number++; len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		if err := each(line); err != nil {
			return fmt.Errorf("%s, line %d: %w", path, number, err)
		}
	}
	return nil
}
