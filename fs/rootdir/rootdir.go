// Package rootdir is a FUSE file system of one directory that holds mount points and nothing else: the root of several
// lakes that are shown side by side. Nothing can be made, changed or removed in it (EROFS). A directory of it that nothing
// is mounted on answers EIO to whoever looks into it: it is a lake that is away, not one that is empty.
//
// The kernel lets nobody but the user into a mount that is not for others, and so not fusermount3, which runs as root: it
// cannot mount on a directory of this one. With Links the lakes are mounted elsewhere, and the directory of one that is
// there is a symbolic link.
//
//	srv, err := rootdir.Mount(rootdir.Options{Mountpoint: "/lakes", Source: "/etc/tarn/lakes.yaml", Names: []string{"CTAO", "ESCAPE"}})
//	srv.Wait()
//
// It is served from memory, so no call waits. What the kernel was told of it stays true and is kept: while its process is
// dead, paths into lakes that are mounted on its directories go on to work.
package rootdir

import (
	"fmt"
	"log"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Type is the type of the file system after "fuse.", as mountinfo has it.
const Type = "tarn-lakes"

// Options describes a mount.
type Options struct {
	Mountpoint string
	Source     string   // shown by df and mount: the file that lists the lakes
	Names      []string // of the directories
	// Links tells where the lake of a directory is mounted, and whether it is at the moment. nil: on the directory.
	Links      func(name string) (path string, there bool)
	AllowOther bool
	Extra      []string // further mount options for the kernel
	Debug      bool
	Log        *slog.Logger
}

// Server is a mounted root.
type Server struct{ srv *fuse.Server }

// Mount mounts and serves in the background; it returns when the mount is usable.
func Mount(o Options) (*Server, error) {
	r := &root{RawFileSystem: fuse.NewDefaultRawFileSystem(), names: slices.Sorted(slices.Values(o.Names)), links: o.Links, born: time.Now(), uid: uint32(os.Getuid()), gid: uint32(os.Getgid())}
	srv, err := fuse.NewServer(r, o.Mountpoint, &fuse.MountOptions{
		// Neither ro nor default_permissions: fusermount3 wants a mount point that its user can write to by the look of it.
		AllowOther: o.AllowOther, FsName: o.Source, Name: Type, Options: o.Extra, DisableXAttrs: true, DisableReadDirPlus: true,
		DirectMount: os.Geteuid() == 0, Debug: o.Debug, Logger: log.New(logWriter{o.Log}, "", 0),
	})
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", o.Mountpoint, err)
	}
	go srv.Serve() // NewServer has answered the kernel's INIT
	return &Server{srv}, nil
}

// Wait returns when the file system is unmounted.
func (s *Server) Wait() { s.srv.Wait() }

// Unmount takes the file system away; it fails while it is in use, or a lake is mounted in it.
func (s *Server) Unmount() error { return s.srv.Unmount() }

// logWriter passes go-fuse's lines on.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Debug("fuse", "line", string(p))
	return len(p), nil
}

// keep is how long the kernel may keep names and attributes: none of them ever changes.
const keep = 10 * 365 * 24 * time.Hour

// firstNode is the node and inode number of the first directory; the root has fuse.FUSE_ROOT_ID, and the links those
// after the last directory.
const firstNode = fuse.FUSE_ROOT_ID + 1

// root serves the directory. Nothing in it changes, so it needs no lock.
type root struct {
	fuse.RawFileSystem
	names    []string // sorted
	links    func(string) (string, bool)
	born     time.Time
	uid, gid uint32
}

// String names the file system.
func (r *root) String() string { return Type }

// link gives the target of a node that is a link.
func (r *root) link(node uint64) (path string, ok bool) {
	i := int(node) - firstNode - len(r.names)
	if r.links == nil || i < 0 || i >= len(r.names) {
		return "", false
	}
	path, _ = r.links(r.names[i])
	return path, true
}

// attr is that of every node: a directory of the mounting user, or a link.
func (r *root) attr(node uint64, out *fuse.Attr) {
	*out = fuse.Attr{Ino: node, Mode: fuse.S_IFDIR | 0o755, Nlink: 2, Owner: fuse.Owner{Uid: r.uid, Gid: r.gid}, Blksize: 4096}
	if node == fuse.FUSE_ROOT_ID {
		out.Nlink = uint32(2 + len(r.names))
	}
	if path, ok := r.link(node); ok {
		out.Mode, out.Nlink, out.Size = fuse.S_IFLNK|0o777, 1, uint64(len(path))
	}
	out.SetTimes(&r.born, &r.born, &r.born)
}

// Lookup finds a directory of the root; below one of these everything is EIO.
func (r *root) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if h.NodeId != fuse.FUSE_ROOT_ID {
		return fuse.EIO
	}
	i, ok := slices.BinarySearch(r.names, name)
	if !ok {
		return fuse.ENOENT
	}
	out.NodeId = firstNode + uint64(i)
	if r.links == nil {
		out.SetEntryTimeout(keep)
	} else if _, there := r.links(name); there { // asked for each time
		out.NodeId += uint64(len(r.names))
	}
	r.attr(out.NodeId, &out.Attr)
	out.SetAttrTimeout(keep)
	return fuse.OK
}

// Readlink tells where a lake is.
func (r *root) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	path, ok := r.link(h.NodeId)
	if !ok {
		return nil, fuse.EINVAL
	}
	return []byte(path), fuse.OK
}

// GetAttr tells of a directory.
func (r *root) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	r.attr(in.NodeId, &out.Attr)
	out.SetTimeout(keep)
	return fuse.OK
}

// Access lets everybody: fusermount3 asks it before it mounts a lake, and what is refused is refused when it is done.
func (r *root) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.OK }

// StatFs gives an empty answer: who asks for space means a lake.
func (r *root) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.Frsize, out.NameLen = 4096, 4096, 255
	return fuse.OK
}

// OpenDir opens the root.
func (r *root) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	if in.NodeId != fuse.FUSE_ROOT_ID {
		return fuse.EIO
	}
	return fuse.OK
}

// ReadDir lists the names; an offset counts the entries before it, "." and ".." being the first two.
func (r *root) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if in.NodeId != fuse.FUSE_ROOT_ID {
		return fuse.EIO
	}
	for i := in.Offset; i < uint64(2+len(r.names)); i++ {
		e := fuse.DirEntry{Mode: fuse.S_IFDIR, Ino: fuse.FUSE_ROOT_ID, Name: [...]string{".", ".."}[min(i, 1)], Off: i + 1}
		if i >= 2 {
			e.Ino, e.Name = firstNode+i-2, r.names[i-2]
			if r.links != nil {
				e.Mode = 0 // it is asked for
			}
		}
		if !out.AddDirEntry(e) {
			break
		}
	}
	return fuse.OK
}
