package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/transformersquared/operator/runtime/train/dataset"
)

func TestLongPromptsEndInTheQuestionsOfTheTransferSets(t *testing.T) {
	l := newLab(t)
	again := &lab{data: l.data, long: map[string]string{}, digests: map[string]string{}}
	if err := again.makeLong(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	for _, k := range skills {
		short, err := dataset.Load(t.Context(), l.set(k, splitTransfer), nil)
		if err != nil {
			t.Fatal(err)
		}
		long, err := dataset.Load(t.Context(), l.set(k, splitLong), nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(long.Records) != len(short.Records) {
			t.Fatalf("%s: %d long prompts of %d", k.name, len(long.Records), len(short.Records))
		}
		before := ""
		for i, r := range long.Records {
			is, was := r.Messages[0].Content, short.Records[i].Messages[0].Content
			front, ends := strings.CutSuffix(is, was)
			if times := float64(len(is)) / float64(len(was)); !ends || times < stretch/2 || times > stretch {
				t.Fatalf("%s, record %d, is %.1f times as long: %q", k.name, i+1, times, is)
			}
			if r.Target() != short.Records[i].Target() || front == before {
				t.Fatalf("%s, record %d: another answer, or behind the same as the one before it: %q", k.name, i+1, is)
			}
			before = front
		}
		// It is the same file each time, whatever folder it lies in.
		if again.set(k, splitLong).Digest != l.set(k, splitLong).Digest || again.path(k, splitLong) == l.path(k, splitLong) {
			t.Errorf("%s: another set", k.name)
		}
	}
}

func TestOnlyTheQuestionOfARecordIsLengthened(t *testing.T) {
	line := []byte(`{"question":"What is it?","choices":{"text":["this","that"],"label":["A","B"]},"answerKey":"B"}`)
	longer, used, err := lengthened(line, []string{"One?\n1", "Two?\n2"}, 1)
	if err != nil || used < 2 {
		t.Fatalf("%d fillers, %v", used, err)
	}
	var was, is map[string]json.RawMessage
	if err := json.Unmarshal(line, &was); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(longer, &is); err != nil {
		t.Fatal(err)
	}
	var text string
	if err := json.Unmarshal(is["question"], &text); err != nil || !strings.HasPrefix(text, "Two?\n2\nOne?\n1\n") || !strings.HasSuffix(text, "\nWhat is it?") {
		t.Errorf("it asks %q, %v", text, err)
	}
	if !bytes.Equal(is["choices"], was["choices"]) || !bytes.Equal(is["answerKey"], was["answerKey"]) {
		t.Errorf("what is no question has changed: %s", longer)
	}
}

func TestADamagedDataSetIsNamed(t *testing.T) {
	path := t.TempDir() + "/train.jsonl"
	if err := os.WriteFile(path, []byte("{}\n\n{\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := records(path, func(line []byte) error { return json.Unmarshal(line, &question{}) })
	if err == nil || !strings.Contains(err.Error(), path+", line 3") {
		t.Errorf("got %v", err)
	}
}
