package gitops

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	lua "github.com/yuin/gopher-lua"
)

// health is what Argo CD shows of an object.
type health struct{ status, message string }

// known are the statuses that Argo CD takes from a script.
var known = map[string]bool{
	"Healthy": true, "Progressing": true, "Degraded": true, "Suspended": true, "Missing": true, "Unknown": true,
}

// evaluate runs the health check as Argo CD does (util/lua of argo-cd v3.5): the
// same interpreter, the libraries package, base and table and no other, a bound of
// time (a second there; a busy machine is given more), and the object as global obj. Argo CD's own package is not used: with
// it come 350 others, a cloud's and Git's among them. Of os, which Argo CD offers
// in part, the script has nothing here.
func evaluate(ctx context.Context, script string, object map[string]any) (health, error) {
	l := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer l.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.LoadLibName: lua.OpenPackage, lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable,
	} {
		if err := l.CallByParam(lua.P{Fn: l.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			return health{}, fmt.Errorf("opening Lua's library %s: %w", name, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	l.SetContext(ctx)
	l.SetGlobal("obj", value(l, object))
	if err := l.DoString(script); err != nil {
		return health{}, fmt.Errorf("running the health check: %w", err)
	}
	result, ok := l.Get(-1).(*lua.LTable)
	if !ok {
		return health{}, fmt.Errorf("the health check returned %s, want a table", l.Get(-1).Type())
	}
	h := health{status: lua.LVAsString(result.RawGetString("status")), message: lua.LVAsString(result.RawGetString("message"))}
	if !known[h.status] {
		return h, fmt.Errorf("Argo CD knows no status %q", h.status)
	}
	return h, nil
}

// value is a value of JSON as Lua has it.
func value(l *lua.LState, v any) lua.LValue {
	switch v := v.(type) {
	case string:
		return lua.LString(v)
	case bool:
		return lua.LBool(v)
	case float64:
		return lua.LNumber(v)
	case int64:
		return lua.LNumber(v)
	case []any:
		table := l.CreateTable(len(v), 0)
		for _, item := range v {
			table.Append(value(l, item))
		}
		return table
	case map[string]any:
		table := l.CreateTable(0, len(v))
		for key, item := range v {
			table.RawSetH(lua.LString(key), value(l, item))
		}
		return table
	default:
		return lua.LNil
	}
}

// script is the health check.
func script(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile("../../config/argocd/health.lua")
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// What a script could do in Argo CD, and no more, it can do here.
func TestTheSandboxIsArgos(t *testing.T) {
	for _, tc := range []struct{ name, script, wrong string }{
		{"no string library", `return {status = string.lower("Healthy")}`, "attempt to index"},
		{"no files", `return {status = io.open("/etc/passwd")}`, "attempt to index"},
		{"no loop without end", `while true do end`, "context deadline exceeded"},
		{"no status of its own", `return {status = "Fine"}`, `no status "Fine"`},
		{"no text for a table", `return "Healthy"`, "returned string"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := evaluate(t.Context(), tc.script, map[string]any{})
			wantError(t, err, tc.wrong)
		})
	}
}
