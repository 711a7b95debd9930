package main

import (
	"fmt"
	"io"
	"strings"
)

// table is a Markdown table with what stands around it.
type table struct {
	title  string
	before string // A paragraph or more.
	head   []string
	rows   [][]string
	after  string
	// unseeded says that nothing in it depends on how many seeds there are.
	unseeded bool
	// pictures are files beside the report, drawn by charts.
	pictures []picture
}

// picture is a chart and the file that it is drawn into.
type picture struct {
	file  string
	chart chart
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// write writes the table as a section. A cell may hold anything but a line's end.
func (t *table) write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n", t.title)
	paragraph := func(text string) {
		if text = strings.TrimSpace(text); text != "" {
			fmt.Fprintf(&b, "%s\n\n", text)
		}
	}
	paragraph(t.before)
	line := func(cells []string) {
		b.WriteString("|")
		for i := range t.head {
			text := ""
			if i < len(cells) {
				text = strings.ReplaceAll(strings.Join(strings.Fields(cells[i]), " "), "|", `\|`)
			}
			fmt.Fprintf(&b, " %s |", text)
		}
		b.WriteString("\n")
	}
	line(t.head)
	b.WriteString("|" + strings.Repeat("---|", len(t.head)) + "\n")
	for _, r := range t.rows {
		line(r)
	}
	b.WriteString("\n")
	for _, p := range t.pictures {
		paragraph(fmt.Sprintf("![%s](%s)", p.chart.title, p.file))
	}
	paragraph(t.after)
	_, err := io.WriteString(w, b.String())
	return err
}
