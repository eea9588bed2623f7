package integration

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// goList runs go list over the module with a template.
func goList(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

func under(pkg string, roots ...string) bool {
	return slices.ContainsFunc(roots, func(r string) bool { return pkg == r || strings.HasPrefix(pkg, r+"/") })
}

// allowed says which packages of ours, and which notable foreign ones, a package may
// import; the first rule whose folder matches decides. The arrows of docs/architecture.md.
var allowed = []struct {
	folder string
	why    string
	may    []string // ours
	alien  []string // third parties
}{
	{"tarn/cmd/tarn", "the wiring may name everything", []string{"tarn"}, []string{"*"}},
	{"tarn/integration", "the tests of the whole may name everything", []string{"tarn"}, []string{"*"}},
	{"tarn/fs/vfs", "the file system without FUSE stands on the cache and the lake",
		[]string{"tarn/cache", "tarn/backends/lake", "tarn/backends/checksum", "tarn/backends/query", "tarn/backends/tune", "tarn/backends"},
		[]string{"github.com/hashicorp/golang-lru", "golang.org/x"}},
	{"tarn/fs", "FUSE stands on fs/vfs, and is the only importer of go-fuse",
		[]string{"tarn/fs/vfs", "tarn/backends", "tarn/backends/query"},
		[]string{"github.com/hanwen/go-fuse", "golang.org/x"}},
	{"tarn/cache", "the cache knows keys and bytes, nothing of the lake", []string{"tarn/cache"},
		[]string{"github.com/hashicorp/golang-lru", "golang.org/x"}},
	{"tarn/backends/query", "the query language is a leaf", nil, nil},
	{"tarn/backends/lake", "the lake knows contracts, no implementation",
		[]string{"tarn/backends", "tarn/backends/checksum", "tarn/backends/naming", "tarn/backends/query", "tarn/backends/rseexpr"}, []string{"golang.org/x"}},
	{"tarn/backends/replication", "replication stands on the lake",
		[]string{"tarn/backends", "tarn/backends/lake", "tarn/backends/checksum", "tarn/backends/query", "tarn/backends/rseexpr", "tarn/backends/tune"}, []string{"golang.org/x"}},
	{"tarn/backends/tune", "how many at a time is a question of numbers", nil, nil},
	{"tarn/backends/ingest/watch", "the folder that is watched knows files, nothing of the lake",
		[]string{"tarn/backends"}, []string{"github.com/fsnotify/fsnotify", "golang.org/x/sys/unix"}},
	{"tarn/backends/ingest/metadata", "metadata of names and headers is words of the lake", []string{"tarn/backends"}, nil},
	{"tarn/backends/ingest", "an ingest stands on the lake, and has a ledger of its own",
		[]string{"tarn/backends", "tarn/backends/lake", "tarn/backends/checksum", "tarn/backends/rseexpr"}, []string{"github.com/dgraph-io/badger", "golang.org/x"}},
	{"tarn/backends/compare", "what compares storages with the catalogue stands on the lake",
		[]string{"tarn/backends", "tarn/backends/lake", "tarn/backends/checksum"}, []string{"golang.org/x"}},
	{"tarn/backends/index", "the index of metadata stands on contracts, and has a database of its own",
		[]string{"tarn/backends", "tarn/backends/query"}, []string{"github.com/dgraph-io/badger"}},
	{"tarn/backends/catalogue", "a catalogue knows contracts, and its own database",
		[]string{"tarn/backends", "tarn/backends/query", "tarn/backends/checksum", "tarn/backends/naming"},
		[]string{"github.com/dgraph-io/badger", "github.com/hashicorp/golang-lru", "golang.org/x", "google.golang.org/protobuf"}}, // badger's MANIFEST is protobuf
	{"tarn/backends/storage/s3", "a storage knows contracts only, and its own client library",
		[]string{"tarn/backends", "tarn/backends/checksum", "tarn/backends/credential", "tarn/backends/storage/wire"}, []string{"github.com/minio/minio-go", "golang.org/x"}},
	{"tarn/backends/storage/marker", "a parser that storages share is a leaf", nil, nil},
	{"tarn/backends/storage", "a storage knows contracts only", []string{"tarn/backends", "tarn/backends/checksum", "tarn/backends/credential"}, []string{"golang.org/x"}},
	{"tarn/backends/tape", "a tape system knows contracts only", []string{"tarn/backends", "tarn/backends/checksum"}, []string{"golang.org/x"}},
	{"tarn/backends/servertest", "real servers for tests of any package", []string{"tarn/integration/needed"}, nil},
	{"tarn/backends/credential", "tokens, proxies and authorities", []string{"tarn/backends"}, nil},
	{"tarn/backends/checksum", "digests, and what the processor can", []string{"tarn/backends"}, []string{"golang.org/x/sys/cpu"}},
	{"tarn/backends/endpoint", "a decorator, and the breaker of a library", []string{"tarn/backends"}, []string{"github.com/sony/gobreaker", "golang.org/x"}},
	{"tarn/backends/rseexpr", "RSE expressions", []string{"tarn/backends"}, nil},
	{"tarn/backends/naming", "paths of DIDs", []string{"tarn/backends"}, nil},
	{"tarn/backends/ingest/report", "the page of an ingest knows its records", []string{"tarn/backends/ingest", "tarn/backends"}, nil},
	{"tarn/backends", "the words import nothing but the query leaf; decorators and suites import the words",
		[]string{"tarn/backends", "tarn/backends/query", "tarn/backends/checksum"}, []string{"golang.org/x"}},
}

// TestArrows proves the import direction: what the table does not allow is forbidden.
func TestArrows(t *testing.T) {
	for _, line := range goList(t, "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "./...") {
		fields := strings.Fields(line)
		pkg := fields[0]
		for _, rule := range allowed {
			if !under(pkg, rule.folder) {
				continue
			}
			for _, imp := range fields[1:] {
				first, _, _ := strings.Cut(imp, "/")
				switch {
				case first == "tarn":
					// Below its own folder a package may import; a plain word of ours
					// otherwise allows exactly that package, folders of many only from cmd.
					exact := slices.Contains(rule.may, imp) || slices.Contains(rule.may, "tarn")
					own := under(imp, rule.folder) && rule.folder != "tarn/backends"
					sub := rule.folder != "tarn/backends" && slices.Contains(rule.may, "tarn/cache") && under(imp, "tarn/cache")
					if !exact && !own && !sub {
						t.Errorf("%s imports %s: forbidden, because %s", pkg, imp, rule.why)
					}
				case strings.Contains(first, "."):
					if !slices.ContainsFunc(rule.alien, func(a string) bool { return a == "*" || under(imp, a) }) {
						t.Errorf("%s imports %s: forbidden, because %s", pkg, imp, rule.why)
					}
				}
			}
			break
		}
	}
}

// TestPackageComments wants one package comment in each package.
func TestPackageComments(t *testing.T) {
	for _, line := range goList(t, "-f", "{{.ImportPath}}\t{{.Doc}}", "./...") {
		pkg, doc, _ := strings.Cut(line, "\t")
		if strings.TrimSpace(doc) == "" {
			t.Errorf("package %s has no package comment", pkg)
		}
	}
}
