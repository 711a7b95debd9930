package v1alpha1

// TrainingDataset is a pair of data sets.
type TrainingDataset struct {
	// train is what the model answers for its reward.
	// +required
	Train Dataset `json:"train,omitzero"`
	// validation decides which checkpoint is the result. No record of it should be
	// in train.
	// +required
	Validation Dataset `json:"validation,omitzero"`
}

// Dataset is a file of JSON objects, one a line or in one array, compressed by
// gzip or not, from exactly one of configMap, persistentVolumeClaim and http.
// +kubebuilder:validation:ExactlyOneOf=configMap;persistentVolumeClaim;http
// +kubebuilder:validation:XValidation:rule="!has(self.promptTemplate) || self.format != 'Chat'",message="format Chat has whole conversations and takes no promptTemplate",fieldPath=".promptTemplate"
type Dataset struct {
	// configMap holds the file under a key. A change of its content trains, or searches, again.
	// Exactly one of configMap, persistentVolumeClaim and http is given.
	// +optional
	ConfigMap *ConfigMapKeyRef `json:"configMap,omitempty"`
	// persistentVolumeClaim holds the file. A change of its content is noticed only
	// by digest.
	// +optional
	PersistentVolumeClaim *ClaimSource `json:"persistentVolumeClaim,omitempty"`
	// http is the file's address. A change of its content is noticed only by digest.
	// +optional
	HTTP *HTTPFile `json:"http,omitempty"`
	// digest is the SHA-256 that the file must have; another file is refused.
	// +optional
	Digest Digest `json:"digest,omitempty"`
	// format of the file's records, each a JSON object with these fields (others may
	// be there and are ignored):
	// GSM8K: question, answer (ends in "#### number").
	// MBPP: text or prompt, test_list[], and as they need it test_setup_code,
	// test_imports[], code.
	// HumanEval: prompt, entry_point, test.
	// ARC: question, choices{text[], label[]}, answerKey; or question{stem,
	// choices[{text, label}]}, answerKey.
	// MATH: problem, and answer or a solution with \boxed{answer}.
	// Chat: messages[{role, content}], the last one the assistant's, which is the
	// right answer.
	// Pairs: prompt, answer.
	// +required
	Format DatasetFormat `json:"format,omitempty"`
	// promptTemplate turns a line into the user's message: {question} (required),
	// {choices} and {tests} are replaced. Without it: "{question}"; ARC adds
	// {choices} on lines of their own, MBPP "Your code should pass these tests:" and
	// {tests}. Format Chat takes none.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:XValidation:rule="self.contains('{question}')",message="promptTemplate must contain {question}"
	PromptTemplate string `json:"promptTemplate,omitempty"`
	// limit is how many lines are used, from the first; all without it.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000000
	Limit int32 `json:"limit,omitempty"`
}

// DatasetFormat names the fields of a file's records, as published data sets have
// them.
// +kubebuilder:validation:Enum=GSM8K;MBPP;HumanEval;ARC;MATH;Chat;Pairs
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type DatasetFormat string

// Data set formats.
const (
	FormatGSM8K     DatasetFormat = "GSM8K"
	FormatMBPP      DatasetFormat = "MBPP"
	FormatHumanEval DatasetFormat = "HumanEval"
	FormatARC       DatasetFormat = "ARC"
	FormatMATH      DatasetFormat = "MATH"
	FormatChat      DatasetFormat = "Chat"
	FormatPairs     DatasetFormat = "Pairs"
)
