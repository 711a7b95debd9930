#!/usr/bin/env bash
# Chat templates are Jinja. The engine that Transformers.js renders them with
# takes values from JavaScript where Jinja2 takes them from Python, without an
# error: true is printed as "true" (Jinja2: "True"), -7 % 3 is -1 (2), two empty
# lists are not equal (they are), the text "1" equals the number 1 (it does not),
# and 2.0|tojson is 2 (2.0). A template that prints or compares such values makes
# one prompt with this engine and another with Jinja2, and so with the model's
# reference implementation.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm install --silent --no-fund --no-audit --ignore-scripts --prefix "$dir" @huggingface/jinja@0.5.11 >/dev/null

cat >show.mjs <<'JS'
import { Template } from "@huggingface/jinja";
for (const text of ["{{ true }}", "{{ -7 % 3 }}", "{{ [] == [] }}", "{{ '1' == 1 }}", "{{ 2.0|tojson }}"]) {
  console.log(`${text} ${new Template(text).render({})}`);
}
JS
cat >expected <<'TEXT'
{{ true }} true
{{ -7 % 3 }} -1
{{ [] == [] }} false
{{ '1' == 1 }} true
{{ 2.0|tojson }} 2
TEXT
echo "@huggingface/jinja $(node -p 'require("./node_modules/@huggingface/jinja/package.json").version'), Node.js $(node --version)"
node show.mjs | tee seen
diff expected seen
