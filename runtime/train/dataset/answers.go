package dataset

import (
	"context"
	"fmt"

	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/runtime/failure"
)

// LoadAnswers reads given answers to the records of a data set: objects {"answer":
// "…"}, one a line or in one array, compressed by gzip or not. Other fields are
// left alone.
func LoadAnswers(ctx context.Context, path string) ([]string, error) {
	name, content, err := read(ctx, contract.DatasetSpec{Path: path})
	if err != nil {
		return nil, fmt.Errorf("answers: %w", err)
	}
	var answers []string
	content, err = unpack(content, MaxBytes)
	if err == nil {
		var unit string
		var bad error
		number := 0
		unit, err = objects(content, func(o object) bool {
			var r struct {
				Answer *string `json:"answer"`
			}
			if bad = unmarshal(o.text, &r); bad == nil && r.Answer == nil {
				bad = fmt.Errorf("field %q is missing", "answer")
			}
			if bad != nil {
				number = o.number
				return false
			}
			answers = append(answers, *r.Answer)
			return true
		})
		if bad != nil {
			err = fmt.Errorf(`%s %d: %w: each must be an object such as {"answer": "42"}`, unit, number, bad)
		}
	}
	if err != nil {
		return nil, failure.Permanent(contract.ReasonInvalidDataset, fmt.Errorf("answers %s: %w", name, err))
	}
	return answers, nil
}
