#!/usr/bin/env bash
# Has a t2 do what it is for, on the demo's model: fetch and decompose it, train an
# expert of it for one iteration, answer a request in two passes, and one with the expert.
#
#   hack/release/works.sh FOLDER COMMAND [ARGUMENT...]
#
# COMMAND is the t2, with what executes it before it where it is for another processor.
# FOLDER, an absolute path, is filled. Printed is the first answer's field "t2".
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=$1
shift
t2=("$@")
demo=config/samples/demo
trap 'if [ -n "${serving_PID:-}" ]; then kill "$serving_PID" 2>/dev/null || true; fi' EXIT

fail() { # WHAT FILE
  echo "works: ${t2[*]}: $1" >&2
  cat "$2" >&2
  exit 1
}
digest() { basename "$1"/sha256-*; }
mkdir -p "$folder"
log=$folder/log
"${t2[@]}" fetch "$demo/model" --data-dir "$folder" >"$log" 2>&1 || fail "it does not fetch" "$log"
model=$folder/models/$(digest "$folder/models")
"${t2[@]}" decompose --model "$model" --data-dir "$folder" >"$log" 2>&1 || fail "it does not decompose" "$log"
model_digest=$(digest "$folder/models") factors_digest=$(digest "$folder/decompositions")
cat >"$folder/math.json" <<END
{"name": "math", "skill": "math", "runID": "math-1", "dataDir": "$folder", "objective": "Reinforce", "reward": "Numeric",
 "baseDigest": "${model_digest/-/:}", "decompositionDigest": "${factors_digest/-/:}",
 "train": {"path": "$demo/data/math/train.jsonl", "format": "GSM8K"},
 "validation": {"path": "$demo/data/math/validation.jsonl", "format": "GSM8K"},
 "hyperparameters": {"iterations": 1, "batchSize": 4, "learningRate": 0.01}}
END
"${t2[@]}" train --spec "$folder/math.json" >"$log" 2>&1 || fail "it does not train" "$log"

# It says at which port it listens, and when it has the expert.
coproc serving {
  exec "${t2[@]}" serve --name demo --model "$model" --decomposition "$folder/decompositions/$factors_digest" \
    --expert "math=$folder/experts/$(digest "$folder/experts")" --describe "math=word problems and arithmetic" \
    --listen 127.0.0.1:0 --admin 127.0.0.1:0 2>&1
}
server=$serving_PID
exec {said}<&"${serving[0]}"
port=
while read -r -t 120 -u "$said" line; do
  echo "$line" >>"$log"
  if [[ $line =~ \"api\":\"127.0.0.1:([0-9]+)\" ]]; then port=${BASH_REMATCH[1]}; fi
  if [[ $line == *"Took expert set into use"* ]]; then break; fi
done
[[ -n $port && $line == *"Took expert set into use"* ]] || fail "it does not serve" "$log"
# Nobody else reads what it says of the request.
cat <&"$said" >>"$log" &
rest=$!

ask() { # MODEL
  local body="{\"model\":\"$1\",\"temperature\":0,\"messages\":[{\"role\":\"user\",\"content\":\"What is 3 plus 4?\"}]}" asked
  exec {asked}<>"/dev/tcp/127.0.0.1/$port"
  printf 'POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s' "${#body}" "$body" >&"$asked"
  timeout 120 cat <&"$asked" >"$folder/answer" || fail "it does not answer for $1" "$log"
  exec {asked}>&-
  grep -q '^HTTP/1.[01] 200 ' "$folder/answer" || fail "it answers for $1 with an error" "$folder/answer"
}
ask demo
if ! grep -o '"t2":{.*' "$folder/answer" >"$folder/adapted"; then fail "it does not say how it adapted" "$folder/answer"; fi
ask demo:math
grep -q '"expert":"math"' "$folder/answer" || fail "it does not answer with the expert" "$folder/answer"

kill "$server"
code=0
wait "$server" || code=$?
wait "$rest"
if [ "$code" -ne 0 ]; then fail "it ends with $code when it is told to" "$log"; fi
cat "$folder/adapted"
