// Package constrain lets a model write nothing but what a JSON Schema allows. A schema is
// compiled to an automaton over bytes; in each state the automaton says which tokens of a
// vocabulary may come next, and a sampler chooses among them.
//
//	compiler := constrain.NewCompiler(constrain.NewVocabulary(size, spell), constrain.Options{})
//	grammar, err := compiler.Schema(ctx, schema)
//	matcher := grammar.NewMatcher(stopTokens) // One for each answer.
//	for !matcher.Ended() {
//		allowed, err := matcher.Allowed()
//		token := … // Any of allowed.
//		err = matcher.Accept(token)
//	}
//
// A text that has ended validates against the schema. In every state that can be reached
// some byte is allowed that leads to an end, so a vocabulary with a token for each byte never
// gets stuck; where tokens are missing ErrStuck says so.
//
// # What a schema may say
//
// Schemas come from strangers. Their bytes, depth, states and the time to compile them are
// bounded, and what this package does not know is refused by its place (SchemaError), never
// ignored. Of JSON Schema 2020-12 it knows
//
//	type, enum, const          type may be a list; enum is filtered by what else is said
//	properties, required       written in the order of the schema; optional ones may be left out
//	additionalProperties       false, true or a schema; without it see Options.Open
//	items, prefixItems         with minItems, maxItems; uniqueItems only as false
//	minLength, maxLength       counted in characters
//	pattern                    regular expressions without boundaries (\b), look-around and back references; not anchored
//	format                     date, time, date-time, uuid, ipv4
//	minimum, maximum           also exclusive, for whole numbers and others, exactly
//	multipleOf                 exactly, up to MaxMultiple units of its last digit
//	anyOf, allOf               also beside other keywords
//	oneOf                      if it can be seen that no value matches two of its schemas
//	$ref, $defs, definitions   within the schema, recursive ones, too
//	true, false
//
// and it takes what has no effect on validity: title, description, default, examples,
// deprecated, readOnly, writeOnly, $comment, $schema, $id at the root, and names that begin
// with x-.
//
// # What is written
//
// Of the many spellings of a value some are never written, so that answers end: JSON without
// white space but for at most one blank behind a colon or a comma; numbers with at most 15
// digits, an exponent of two digits where nothing bounds the number, whole numbers without
// point and exponent. Strings are UTF-8 with all escapes of JSON; those that
// have to match a pattern, and names of properties, escape only what JSON demands. Names of
// properties that the schema does not list come last; that one of them comes twice cannot be
// ruled out.
//
// A Layout is more than a schema: fixed words around values, alternatives, repetitions and free
// text, such as the calls of tools that a model writes behind what it says. Special tokens have
// no part in a text; one that a layout demands is spelled, in the vocabulary and in a Literal,
// by bytes that no text has.
//
// # How
//
// Rules call each other, so a schema may be recursive, and a configuration is a position in
// a rule and a stack of positions to return to. A state is the set of all configurations that
// the text so far allows; stacks with a common top are one (a graph-structured stack), and
// equal stacks and states are one object (hash consing), so a transition is computed once. A
// mask of tokens is found by walking the vocabulary's trie, once a state.
package constrain
