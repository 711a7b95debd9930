package contract

// PathCurve on PortAdmin serves a Curve: in a Job, of the training that goes on there; in
// a serving pod, of a finished expert in its volume, ?digest=sha256:…, which need not be
// one that it serves. The parameter from names the base model whose volume has it, where
// it is another's (see ExpertRef.TransferFrom). 404 means that there is none.
const PathCurve = "/curve"

// MetricsFile is the name of the file beside an expert's that has a CurvePoint a line.
const MetricsFile = "metrics.jsonl"

// MaxCurvePoints bounds the points of a Curve that is sent; of a longer run each stands
// for several iterations (see Curve.Thin).
const MaxCurvePoints = 2000

// Curve is how a training went, or goes: its learning curve.
type Curve struct {
	// Skill of the expert; empty where a Job does not say it.
	Skill string `json:"skill,omitempty"`
	// Iterations are how many there will be at most; 0 where that is not known, as of a
	// finished expert.
	Iterations int `json:"iterations,omitempty"`
	// BaselineScore is the base model's validation score, 0 to 1; negative before it is
	// known.
	BaselineScore float64 `json:"baselineScore"`
	// Points are in the order of iterations.
	Points []CurvePoint `json:"points"`
}

// CurvePoint is one iteration of a training, and a line of MetricsFile. It holds nothing
// that depends on time or machine, so that a run's files have the same digest wherever it
// ran.
type CurvePoint struct {
	Iteration int `json:"iteration"`
	// Reward is the batch's mean reward, −1 to 1.
	Reward float64 `json:"reward"`
	// KL is the mean per answer token, where it was measured: where klWeight is
	// 0, only in iterations that end with a validation.
	KL *float64 `json:"kl,omitempty"`
	// Loss and GradNorm, before clipping, are 0 of Evolution, which has neither.
	Loss     float64 `json:"loss"`
	GradNorm float64 `json:"gradNorm"`
	// BestReward is the mean reward of the best candidate of a generation, and Spread the
	// mean standard deviation of a number that was searched, of Evolution; Reward is the
	// mean of all candidates.
	BestReward *float64 `json:"bestReward,omitempty"`
	Spread     *float64 `json:"spread,omitempty"`
	// AnswerTokens is the number of tokens generated.
	AnswerTokens int `json:"answerTokens"`
	// Score is the validation score, where there was a validation.
	Score *float64 `json:"validationScore,omitempty"`
}

// Thin returns the curve with at most so many points: of each stretch of iterations the
// last one that ends with a validation stays, or else the last one.
func (c Curve) Thin(most int) Curve {
	if most < 1 || len(c.Points) <= most {
		return c
	}
	stretch := (len(c.Points) + most - 1) / most
	thin := make([]CurvePoint, 0, most)
	for from := 0; from < len(c.Points); from += stretch {
		part := c.Points[from:min(from+stretch, len(c.Points))]
		kept := part[len(part)-1]
		for _, p := range part {
			if p.Score != nil {
				kept = p
			}
		}
		thin = append(thin, kept)
	}
	c.Points = thin
	return c
}
