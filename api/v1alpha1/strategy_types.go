package v1alpha1

// StrategyType is how experts are chosen.
// +kubebuilder:validation:Enum=Prompt;Classifier;Probe;FewShot;Fixed
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type StrategyType string

// Strategies.
const (
	// StrategyPrompt shows the model the skills and asks for one.
	StrategyPrompt StrategyType = "Prompt"
	// StrategyClassifier asks the same of an expert that was trained to dispatch.
	StrategyClassifier StrategyType = "Classifier"
	// StrategyProbe takes the skill that a linear map of the base's reading of the request
	// finds most likely.
	StrategyProbe StrategyType = "Probe"
	// StrategyFewShot mixes the experts by weights that a search over a few examples
	// found, for every request.
	StrategyFewShot StrategyType = "FewShot"
	// StrategyFixed mixes the experts by given weights for every request.
	StrategyFixed StrategyType = "Fixed"
)

// Strategy says how experts are chosen. A member is given only with its type.
// +kubebuilder:validation:XValidation:rule="!has(self.prompt) || self.type in ['Prompt', 'Classifier']",message="prompt is for the strategies Prompt and Classifier",fieldPath=".prompt"
// +kubebuilder:validation:XValidation:rule="!has(self.conversation) || self.type in ['Prompt', 'Classifier']",message="conversation is for the strategies Prompt and Classifier: Probe reads what the base reads in any case, and the others choose once for all",fieldPath=".conversation"
// +kubebuilder:validation:XValidation:rule="!has(self.fewShot) || self.type == 'FewShot'",message="fewShot is for strategy FewShot",fieldPath=".fewShot"
// +kubebuilder:validation:XValidation:rule="self.type != 'FewShot' || has(self.fewShot)",message="strategy FewShot needs fewShot, with examples",fieldPath=".fewShot"
// +kubebuilder:validation:XValidation:rule="!has(self.fallback) || self.type in ['Prompt', 'Classifier', 'Probe']",message="fallback is for the strategies Prompt, Classifier and Probe: the others always know what to do",fieldPath=".fallback"
// +kubebuilder:validation:XValidation:rule="self.type != 'Classifier' || has(self.classifier)",message="strategy Classifier needs classifier, with expertRef or train",fieldPath=".classifier"
// +kubebuilder:validation:XValidation:rule="self.type == 'Classifier' || !has(self.classifier)",message="classifier is for strategy Classifier",fieldPath=".classifier"
// +kubebuilder:validation:XValidation:rule="self.type == 'Probe' || !has(self.probe)",message="probe is for strategy Probe",fieldPath=".probe"
type Strategy struct {
	// type of the strategy: Prompt shows the model the skills of the experts and
	// asks for one (pass 1); Classifier asks the same of the model with an expert that
	// was trained to answer it; Probe asks nothing: it tells the skill from what the base
	// makes of the request, which costs next to nothing with experts that act on answers
	// (training.method.activation: Answer), since the base reads the request for them in
	// any case; FewShot mixes the experts, for every request, by the
	// weights that answer a few examples best, for which a Job searches once; Fixed by
	// the weights that the policy gives. The last two have no pass 1.
	// +optional
	// +kubebuilder:default=Prompt
	Type StrategyType `json:"type,omitempty"`
	// prompt configures pass 1, of the strategies Prompt and Classifier.
	// +optional
	Prompt *PromptStrategy `json:"prompt,omitempty"`
	// conversation says when pass 1 chooses in a conversation of several turns of the
	// user; {type: EachTurn} without it.
	// +optional
	Conversation *Conversation `json:"conversation,omitempty"`
	// classifier is what pass 1 runs with, for type Classifier, which needs it.
	// +optional
	Classifier *ClassifierStrategy `json:"classifier,omitempty"`
	// probe configures strategy Probe. Until a Job has fitted the first one, the base is
	// asked as of strategy Prompt.
	// +optional
	Probe *ProbeStrategy `json:"probe,omitempty"`
	// fewShot configures strategy FewShot, which needs it. A change searches again.
	// +optional
	FewShot *FewShotStrategy `json:"fewShot,omitempty"`
	// fallback is what answers where pass 1 cannot decide, is not sure enough
	// (minProbability of prompt or probe) or fails; {type: Base} without it.
	// +optional
	Fallback *Fallback `json:"fallback,omitempty"`
}

// ConversationType says when pass 1 chooses in a conversation.
// +kubebuilder:validation:Enum=EachTurn;Keep;Switch
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type ConversationType string

// Conversations.
const (
	// ConversationEachTurn chooses anew for each of the user's turns.
	ConversationEachTurn ConversationType = "EachTurn"
	// ConversationKeep keeps the first expert that is chosen.
	ConversationKeep ConversationType = "Keep"
	// ConversationSwitch keeps an expert until another one is clearly likelier.
	ConversationSwitch ConversationType = "Switch"
)

// Conversation says when pass 1 chooses in a conversation. It reads the user's last turn,
// and those before it as far as prompt.requestTokens goes.
// +kubebuilder:validation:XValidation:rule="!has(self.switch) || self.type == 'Switch'",message="switch is for conversation Switch",fieldPath=".switch"
type Conversation struct {
	// type of the conversation: EachTurn chooses anew for each of the user's turns; Keep
	// keeps the first expert that is chosen, and later turns have no pass 1; Switch keeps
	// an expert until another one is more likely by switch.margin. What follows without
	// the user, such as a tool's result, keeps its expert in any case.
	// +required
	Type ConversationType `json:"type,omitempty"`
	// switch configures type Switch; {margin: "0.2"} without it.
	// +optional
	Switch *SwitchConversation `json:"switch,omitempty"`
}

// SwitchConversation configures conversation Switch.
type SwitchConversation struct {
	// margin is by how much the probability of the most likely skill has to exceed that
	// of the expert that answers, 0 to 1.
	// +optional
	// +kubebuilder:default="0.2"
	// +kubebuilder:validation:XValidation:rule="double(self) <= 1.0",message="margin must be at most 1"
	Margin Decimal `json:"margin,omitempty"`
}

// FallbackType says what answers where pass 1 cannot decide.
// +kubebuilder:validation:Enum=Base;Expert
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=16
type FallbackType string

// Fallbacks.
const (
	// FallbackBase is the base weights.
	FallbackBase FallbackType = "Base"
	// FallbackExpert is one of the experts.
	FallbackExpert FallbackType = "Expert"
)

// Fallback is what answers where pass 1 cannot decide.
// +kubebuilder:validation:XValidation:rule="self.type != 'Expert' || has(self.name)",message="fallback Expert needs the name of one",fieldPath=".name"
// +kubebuilder:validation:XValidation:rule="self.type == 'Expert' || !has(self.name)",message="name is for fallback Expert",fieldPath=".name"
type Fallback struct {
	// type of the fallback: Base is the base weights, Expert one of the experts.
	// +required
	Type FallbackType `json:"type,omitempty"`
	// name of the expert, for type Expert, which needs it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`
}

// PromptStrategy configures pass 1.
// +kubebuilder:validation:MinProperties=1
type PromptStrategy struct {
	// template of the first pass's message: {skills} becomes the skills and their
	// descriptions, a line each, {prompt} the request; both are required. The
	// runtime's own without it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:XValidation:rule="self.contains('{skills}') && self.contains('{prompt}')",message="template must contain {skills} and {prompt}"
	Template string `json:"template,omitempty"`
	// requestTokens is how many tokens of a longer request the first pass looks at,
	// half of them from the beginning and half from the end; 128 without it. A
	// request of many documents is not read twice for its sake.
	// +optional
	// +kubebuilder:validation:Minimum=16
	// +kubebuilder:validation:Maximum=131072
	RequestTokens *int32 `json:"requestTokens,omitempty"`
	// minProbability is what the probability of the most likely skill has to reach, 0
	// to 1, among all skills and "others" (none of them), which has to reach it, too;
	// below it the fallback answers. Without it, the most likely one is taken
	// however likely it is.
	// +optional
	// +kubebuilder:validation:XValidation:rule="double(self) <= 1.0",message="minProbability must be at most 1"
	MinProbability Decimal `json:"minProbability,omitempty"`
	// topK is how many of the most likely skills are mixed, at most, each with its
	// probability among them, rounded to sixteenths; 1 without it, the most likely
	// one alone. The share of "others" is that of the base weights. Above 1, form
	// Auto computes experts unmerged.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=8
	TopK int32 `json:"topK,omitempty"`
}
