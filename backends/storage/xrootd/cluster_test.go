//go:build xrdcl && cgo

package xrootd

import (
	"errors"
	"os"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/servertest"
)

// cluster is a manager with n servers, and a storage on it.
func cluster(t *testing.T, n int, o Options) (*Storage, []*servertest.Server) {
	t.Helper()
	manager := servertest.XRootD(t, servertest.XRootDOptions{Manager: true})
	var nodes []*servertest.Server
	for range n {
		nodes = append(nodes, servertest.XRootD(t, servertest.XRootDOptions{Of: manager}))
	}
	o.URL = manager.Root + "//data"
	s := storage(t, o)
	eventually(t, "a cluster", func() bool { _, err := s.Stat(t.Context(), ""); return err == nil })
	return s, nodes
}

// write puts a file on a node, past the manager.
func write(t *testing.T, node *servertest.Server, p string, data []byte) {
	t.Helper()
	backendstest.Put(t, storage(t, Options{URL: node.Root + "//data"}), p, data)
}

// A node that is away takes its files with it, which the manager tells as if they had never been.
func TestNodeAway(t *testing.T) {
	s, nodes := cluster(t, 2, Options{})
	write(t, nodes[1], "f", []byte("x"))
	eventually(t, "the file", func() bool { _, err := s.Stat(t.Context(), "f"); return err == nil })
	nodes[1].Kill()
	nodes[1].Cluster.Kill()
	eventually(t, "the manager's finding", func() bool {
		_, err := s.Stat(t.Context(), "f")
		return err == nil || isServer(err, xNotFound)
	})
	for range 3 {
		_, err := s.Stat(t.Context(), "f")
		isDown(t, "stat", err)
		_, err = s.Open(t.Context(), "f")
		isDown(t, "open", err)
		isDown(t, "remove", s.Remove(t.Context(), "f"))
		_, err = s.Checksum(t.Context(), "f")
		isDown(t, "checksum", err)
	}
	nodes[1].Cluster.Start()
	nodes[1].Start()
	eventually(t, "the file again", func() bool { _, err := s.Stat(t.Context(), "f"); return err == nil })
	wantErr(t, "remove", s.Remove(t.Context(), "f"), nil)
}

// Nodes with the same file give it other ids and times; a manager sends who looks to one, and who opens to another.
func TestCopiesOnNodes(t *testing.T) {
	s, nodes := cluster(t, 2, Options{})
	data := []byte("the same")
	for i, n := range nodes {
		write(t, n, "f", data)
		then := time.Now().Add(-time.Duration(i) * time.Hour)
		if err := os.Chtimes(n.Path("/data/f"), then, then); err != nil {
			t.Fatal(err)
		}
	}
	ids := map[string]bool{}
	eventually(t, "both nodes", func() bool {
		i, err := s.look(t.Context(), "f")
		if err == nil {
			ids[i.id] = true
		}
		return len(ids) == 2
	})
	for range 5 {
		if err := readAt(t.Context(), openIt(t, s, "f"), data, 0, len(data)); err != nil {
			t.Errorf("read: %v", err)
		}
	}
}

// What is written through a manager is there at once for all, also where it was asked for before.
func TestCommitThroughManager(t *testing.T) {
	s, _ := cluster(t, 1, Options{})
	for _, name := range []string{"a", "b", "c/d"} {
		backendstest.Put(t, s, name, []byte("x"))
		_, err := s.lookRemote(t.Context(), s.remote(name))
		wantErr(t, "stat, as the manager remembers it", err, nil)
		openIt(t, s, name)
	}
}

// A manager has no folders of its own: what it lists is not what there is.
func TestListOfManager(t *testing.T) {
	s, nodes := cluster(t, 1, Options{})
	write(t, nodes[0], "d/f", []byte("x"))
	for _, dir := range []string{"", "d"} {
		err := errors.New("nothing")
		for _, err = range s.List(t.Context(), dir) {
		}
		wantErr(t, "list", err, backends.ErrNotSupported)
	}
}
