package search_test

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/transformersquared/operator/runtime/search"
)

// A search of the weights of two experts, kept after each generation, and read back
// as another process would.
func Example() {
	o := search.DefaultCEM(2)
	o.Seed = 1
	s, err := search.NewCEM(o)
	if err != nil {
		fmt.Println(err)
		return
	}
	// A server would mix the experts and answer the examples; here ¾ of the first is best.
	evaluate := func(_ context.Context, _ int, vectors [][]float64) ([]search.Fitness, error) {
		fitness := make([]search.Fitness, len(vectors))
		for i, alpha := range vectors {
			fitness[i].Score = -(alpha[0] - 0.75) * (alpha[0] - 0.75)
		}
		return fitness, nil
	}
	var kept []byte
	save := func(state search.State) (err error) {
		kept, err = json.Marshal(state)
		return err
	}
	if err := search.Run(context.Background(), s, evaluate, save); err != nil {
		fmt.Println(err)
		return
	}
	state, err := search.DecodeState(kept)
	if err != nil {
		fmt.Println(err)
		return
	}
	resumed, err := search.ResumeCEM(o, state)
	if err != nil {
		fmt.Println(err)
		return
	}
	best, _ := resumed.Best()
	uniform, _ := resumed.Uniform()
	fmt.Printf("α %.2f instead of uniform ones with %.4f\n", best.Vector, uniform.Score)
	// Output: α [0.75 0.25] instead of uniform ones with -0.0625
}
