package v1alpha1

// TrainingDataset is a pair of data sets, or what one is made of.
// +kubebuilder:validation:XValidation:rule="has(self.skills) ? !has(self.train) && !has(self.validation) : has(self.train) && has(self.validation)",message="give train and validation, or skills alone"
// +kubebuilder:validation:MinProperties=1
type TrainingDataset struct {
	// train is what the model answers for its reward. It is given with validation, and
	// not with skills.
	// +optional
	Train Dataset `json:"train,omitzero"`
	// validation decides which checkpoint is the result. No record of it should be
	// in train.
	// +optional
	Validation Dataset `json:"validation,omitzero"`
	// skills trains a dispatcher: the model is asked which skill a prompt needs, as
	// pass 1 of a policy asks it, and the right answer is the skill whose data set
	// the prompt is from. A fifth of the prompts, by their text, is held out for
	// validation.
	// +optional
	Skills *SkillsDataset `json:"skills,omitempty"`
}

// SkillsDataset are prompts of several skills, to be told apart.
// +kubebuilder:validation:XValidation:rule="self.sets.filter(s, has(s.dataset)).size() >= 2",message="at least two of sets need a dataset: there is nothing to tell apart else",fieldPath=".sets"
type SkillsDataset struct {
	// template of pass 1's message: that of the policy, spec.strategy.prompt.template.
	// A change trains again.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:XValidation:rule="self.contains('{skills}') && self.contains('{prompt}')",message="template must contain {skills} and {prompt}"
	Template string `json:"template,omitempty"`
	// requestTokens is how many tokens of a longer prompt are shown: as the policy's
	// spec.strategy.prompt.requestTokens; 128 without it. A change trains again.
	// +optional
	// +kubebuilder:validation:Minimum=16
	// +kubebuilder:validation:Maximum=131072
	RequestTokens *int32 `json:"requestTokens,omitempty"`
	// sets are the skills in the order in which pass 1 shows them, and possibly others,
	// which means none of them. A change trains again.
	// +required
	// +listType=map
	// +listMapKey=skill
	// +kubebuilder:validation:MinItems=2
	// +kubebuilder:validation:MaxItems=65
	Sets []SkillDataset `json:"sets,omitempty"`
}

// SkillDataset is a skill that a dispatcher is to know.
type SkillDataset struct {
	// skill is the word for it, as the ExpertVector's spec.skill has it, or others.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`
	// +kubebuilder:validation:XValidation:rule="self != 'base'",message="base means the base weights and cannot name a skill"
	Skill string `json:"skill,omitempty"`
	// description that pass 1 shows beside the skill, as the ExpertVector's
	// spec.description has it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[^\r\n]*$`
	Description string `json:"description,omitempty"`
	// dataset has prompts that need the skill; its answers mean nothing here. A skill
	// without one is shown, and never the right answer.
	// +optional
	Dataset *Dataset `json:"dataset,omitempty"`
}

// Dataset is a file of JSON objects, one a line or in one array, compressed by
// gzip or not, from exactly one of configMap, persistentVolumeClaim, http, huggingFace, s3
// and oci.
// +kubebuilder:validation:ExactlyOneOf=configMap;persistentVolumeClaim;http;huggingFace;s3;oci
// +kubebuilder:validation:XValidation:rule="!has(self.huggingFace) || has(self.huggingFace.path)",message="path must say which file of the repository it is",fieldPath=".huggingFace"
// +kubebuilder:validation:XValidation:rule="!has(self.s3) || has(self.s3.prefix)",message="prefix must be the file's whole key",fieldPath=".s3"
// +kubebuilder:validation:XValidation:rule="!has(self.promptTemplate) || self.format != 'Chat'",message="format Chat has whole conversations and takes no promptTemplate",fieldPath=".promptTemplate"
type Dataset struct {
	// configMap holds the file under a key. A change of its content trains, or searches, again.
	// Exactly one of configMap, persistentVolumeClaim, http, huggingFace, s3 and oci is
	// given.
	// +optional
	ConfigMap *ConfigMapKeyRef `json:"configMap,omitempty"`
	// persistentVolumeClaim holds the file. A change of its content is noticed only
	// by digest.
	// +optional
	PersistentVolumeClaim *ClaimSource `json:"persistentVolumeClaim,omitempty"`
	// http is the file's address. A change of its content is noticed only by digest.
	// +optional
	HTTP *HTTPSource `json:"http,omitempty"`
	// huggingFace is the file in a repository of data sets; path names it. A change of its
	// content is noticed only by digest.
	// +optional
	HuggingFace *HuggingFaceSource `json:"huggingFace,omitempty"`
	// s3 is the file in a bucket; prefix is its whole key. A change of its content is
	// noticed only by digest.
	// +optional
	S3 *S3Source `json:"s3,omitempty"`
	// oci is an artifact that has the file alone. A change of its content is noticed
	// only by digest.
	// +optional
	OCI *OCISource `json:"oci,omitempty"`
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
