// Package toolcalltest has chat templates of the families of package toolcall for tests:
// written anew, in little, with what matters to tools as the published ones have it.
package toolcalltest

import "strings"

// Templates are chat templates by the name of the family.
var Templates = map[string]string{
	"hermes": hermes, "mistral": mistral, "llama": llama, "json": plain, "qwen-coder": coder,
	"mistral-named": strings.ReplaceAll(named, "ID", ""),
	"mistral-ids":   strings.ReplaceAll(named, "ID", `{% if call.id | length != 9 %}{{ raise_exception("ids have nine characters") }}{% endif %}{{ "[CALL_ID]" + call.id }}`),
}

// hermes is in the manner of Qwen's.
const hermes = `{%- if tools %}<|system|>You have these functions:
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools>
For each call return JSON within <tool_call></tool_call>:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|end|>{% endif %}
{%- for m in messages %}
{%- if m.role == "tool" %}<|user|>
<tool_response>
{{ m.content }}
</tool_response><|end|>
{%- else %}<|{{ m.role }}|>{{ m.content }}
{%- for call in m.tool_calls or [] %}
{%- if m.content or not loop.first %}{{ "\n" }}{% endif %}
{%- set call = call.function %}{{ '<tool_call>\n{"name": "' + call.name + '", "arguments": ' }}
{%- if call.arguments is string %}{{ call.arguments }}{% else %}{{ call.arguments | tojson }}{% endif %}{{ '}\n</tool_call>' }}
{%- endfor %}<|end|>
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}`

// mistral is in the manner of those of Mistral 7B v0.3.
const mistral = `{%- set users = messages | selectattr("role", "equalto", "user") | list %}
{%- for m in messages %}
{%- if m.role == "user" %}
{%- if tools is not none and m == users[-1] %}{{ "[AVAILABLE_TOOLS] [" }}
{%- for tool in tools %}{{ tool | tojson }}{% if not loop.last %}, {% endif %}{% endfor %}{{ "][/AVAILABLE_TOOLS]" }}{% endif %}
{{- "[INST] " + m.content + "[/INST]" }}
{%- elif m.tool_calls is defined and m.tool_calls is not none %}{{ "[TOOL_CALLS] [" }}
{%- for call in m.tool_calls %}
{%- set out = call.function | tojson %}{{ out[:-1] }}
{%- if call.id is not defined or call.id | length != 9 %}{{ raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}{% endif %}
{{- ', "id": "' + call.id + '"}' }}{% if not loop.last %}, {% endif %}
{%- endfor %}{{ "]" + eos_token }}
{%- elif m.role == "assistant" %}{{ " " + m.content | trim + eos_token }}
{%- elif m.role == "tool" %}{{ '[TOOL_RESULTS] {"content": ' + m.content | string + ', "call_id": "' + m.tool_call_id + '"}[/TOOL_RESULTS]' }}
{%- endif %}
{%- endfor %}`

// llama is in the manner of Llama 3.1's.
const llama = `{%- if tools is not none and messages[0].role == "user" %}
{%- set first = messages[0].content | trim %}
{%- set messages = messages[1:] %}{{ "<|user|>Given the following functions, please respond with a JSON for a function call." }}
{{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.\n\n' }}
{%- for tool in tools %}{{ tool | tojson(indent=4) }}{{ "\n\n" }}{% endfor %}{{ first + "<|end|>" }}
{%- endif %}
{%- for m in messages %}
{%- if m.role == "tool" %}<|ipython|>{{ m.content | tojson }}<|end|>
{%- elif "tool_calls" in m %}
{%- if m.tool_calls | length != 1 %}{{ raise_exception("This model only supports single tool-calls at once!") }}{% endif %}
{%- set call = m.tool_calls[0].function %}<|assistant|>{{ '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + "}" }}<|end|>
{%- else %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}`

// plain shows tools, and leaves to the model what to make of them.
const plain = `{%- if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}
{%- for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}`

// named is in the manner of those of Mistral since v11: a name, and the arguments behind a mark,
// with an id between (Small 3.2) or without (Devstral, Ministral 3).
const named = `{%- for m in messages %}
{%- if m.role == "user" %}
{%- if loop.first and tools %}{{ "[AVAILABLE_TOOLS]" + tools | tojson + "[/AVAILABLE_TOOLS]" }}{% endif %}{{ "[INST]" + m.content + "[/INST]" }}
{%- elif m.role == "tool" %}{{ "[TOOL_RESULTS]" + m.content | string + "[/TOOL_RESULTS]" }}
{%- elif m.role == "assistant" %}{{ m.content }}
{%- for call in m.tool_calls or [] %}{{ "[TOOL_CALLS]" + call.function.name }}ID{{ "[ARGS]" + call.function.arguments | tojson }}{% endfor %}{{ eos_token }}
{%- else %}{{ "[SYSTEM_PROMPT]" + m.content + "[/SYSTEM_PROMPT]" }}
{%- endif %}
{%- endfor %}`

// coder is in the manner of Qwen3-Coder's, which writes the words of Python.
const coder = `{%- if tools %}<|system|>You have these functions:
<tools>
{%- for tool in tools %}
<function>
<name>{{ tool.function.name }}</name>
<parameters>{% for name, fields in (tool.function.parameters.properties or {}) | items %}
<parameter><name>{{ name }}</name><type>{{ fields.type }}</type></parameter>
{%- endfor %}</parameters>
</function>
{%- endfor %}
</tools>
Call one like this: <tool_call>
<function=name>
<parameter=first>
value
</parameter>
</function>
</tool_call><|end|>{% endif %}
{%- for m in messages %}
{%- if m.role == "tool" %}<|user|>
<tool_response>
{{ m.content }}
</tool_response><|end|>
{%- else %}<|{{ m.role }}|>{{ m.content }}
{%- for call in m.tool_calls or [] %}
{%- if m.content or not loop.first %}{{ "\n" }}{% endif %}{{ "<tool_call>\n<function=" + call.function.name + ">\n" }}
{%- for name, value in call.function.arguments | items %}{{ "<parameter=" + name + ">\n" }}
{%- if value is mapping or value is sequence and value is not string %}{{ value | tojson }}{% else %}{{ value | string }}{% endif %}{{ "\n</parameter>\n" }}
{%- endfor %}{{ "</function>\n</tool_call>" }}
{%- endfor %}<|end|>
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}`
