package server

// Every field of a request is honoured, because the code in request.go asks for
// it, or it asks for nothing, because its value is in these tables, or it is
// refused by name (fields.refuseOthers). None is ignored that could change an
// answer. The table for users is in runtime/README.md; TestEveryField holds both
// together.

// harmless are the fields of a request that ask for nothing when they have these
// values.
var harmless = map[string][]any{
	// Notes of the client to whoever keeps its requests or finds its cache.
	"user": {anything}, "metadata": {anything}, "safety_identifier": {anything},
	"prompt_cache_key": {anything}, "prompt_cache_retention": {anything}, "prompt_cache_options": {anything},
	"store": {false}, "service_tier": {"auto", "default"},
	// No tools. Of chats tools, tool_choice and parallel_tool_calls are honoured.
	"tools": {[]any{}}, "functions": {[]any{}}, "tool_choice": {"none", "auto"}, "function_call": {"none", "auto"},
	"parallel_tool_calls": {true, false},
	// Text. Of chats response_format is honoured.
	"response_format": {map[string]any{"type": "text"}}, "modalities": {[]any{"text"}}, "verbosity": {"medium"},
	// Completions.
	"echo": {false}, "suffix": {""},
	// What other servers add.
	"min_tokens": {0.0}, "stop_token_ids": {[]any{}}, "bad_words": {[]any{}}, "include_stop_str_in_output": {false},
	"skip_special_tokens": {true}, "spaces_between_special_tokens": {true, false}, "use_beam_search": {false},
	"early_stopping": {false}, "length_penalty": {1.0}, "typical_p": {1.0}, "documents": {[]any{}}, "logits_processors": {[]any{}},
	"return_token_ids": {false}, "return_tokens_as_token_ids": {false}, "priority": {0.0},
}

// harmlessOfChats are those of chats only: their templates add the special tokens.
var harmlessOfChats = map[string][]any{"add_special_tokens": {false}}

// harmlessOfMessages are those of messages: assistants' messages come back as
// servers have sent them.
var harmlessOfMessages = map[string][]any{"tool_calls": {[]any{}}, "annotations": {[]any{}}, "reasoning_content": {""}}

// harmlessOfParts are those of a text part.
var harmlessOfParts = map[string][]any{"annotations": {[]any{}}, "cache_control": {anything}, "prompt_cache_breakpoint": {anything}}

// harmlessOfStructures are those of response_format.json_schema: a schema is always followed
// strictly.
var harmlessOfStructures = map[string][]any{"description": {anything}, "strict": {true, false}}

// harmlessOfStreams are those of stream_options.
var harmlessOfStreams = map[string][]any{"include_obfuscation": {false}, "continuous_usage_stats": {false}}
