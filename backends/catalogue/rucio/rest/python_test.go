package rest

import (
	"fmt"
	"testing"

	"tarn/backends/servertest"
)

// What we know of exceptions are exceptions of Rucio's.
func TestClassesAreTheServers(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		var known []string
		for c := range classes {
			known = append(known, c)
		}
		out := r.Python("from rucio.common import exception\nprint([c for c in names if not hasattr(exception, c)], len(names))", map[string]any{"names": known})
		if want := fmt.Sprintf("[] %d\n", len(known)); out != want {
			t.Errorf("the server knows nothing of %q", out)
		}
	})
}

// The server's Python reads of filters what we wrote.
func TestFiltersArePython(t *testing.T) {
	r := servertest.Rucio(t, servertest.RucioOptions{})
	texts := []string{`it's "quoted"`, `back\slash\`, "ü€😀", "line\nbreak\t\x00\x7f\u2028", "'}, {'x': 'y", `\u0041\x41{}`, ""}
	var all []map[string]any
	for _, s := range texts {
		all = append(all, map[string]any{s: s, "k.gt": 1.5e300, "n": int64(-7), "t": true, "f": false, "none": nil})
	}
	text, err := pythonFilters(all)
	must(t, err)
	out := r.Python("import ast\nv = ast.literal_eval(text)\nprint(v == [{s: s, 'k.gt': 1.5e300, 'n': -7, 't': True, 'f': False, 'none': None} for s in texts], len(v))", map[string]any{"text": text, "texts": texts})
	if want := fmt.Sprintf("True %d\n", len(texts)); out != want {
		t.Errorf("Python reads something else: %q of %s", out, text)
	}
}
