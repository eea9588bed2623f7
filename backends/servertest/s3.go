package servertest

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"tarn/integration/needed"
)

// The versions of the S3 servers that scripts/setup.sh builds.
const (
	VersityGW = "v1.8.0"
	MinIORev  = "v0.0.0-20260212201848-7aac2a2c5b7c"
)

// The account of an S3 server.
const (
	S3Access = "TESTACCESSKEY"
	S3Secret = "test/secret+key="
)

// S3Options say what an S3 server is like.
type S3Options struct {
	// PKI makes it serve HTTPS in place of HTTP.
	PKI *PKI
	// Buckets are made before it starts; none means "lake".
	Buckets []string
	// Domain lets buckets be host names below it, too.
	Domain string
}

// S3 starts a versitygw on an empty folder, in which a bucket is a folder. Its region is us-east-1.
func S3(t testing.TB, o S3Options) *Server {
	t.Helper()
	needed.Server(t)
	bin := built("versitygw", VersityGW)
	if bin == "" {
		needed.Missing(t, "versitygw %s is not built (make setup)", VersityGW)
	}
	dir := folder(t, "s3")
	s := &Server{t: t, name: "versitygw", Dir: filepath.Join(dir, "data"), Log: filepath.Join(dir, "log")}
	if o.Buckets == nil {
		o.Buckets = []string{"lake"}
	}
	for _, b := range o.Buckets {
		must(t, os.MkdirAll(filepath.Join(s.Dir, b), 0o755))
	}
	// It takes no socket from us: its port is free now, and nobody is likely to take it.
	addrs, ls := listen(t, 1)
	for _, l := range ls {
		l.Close()
	}
	args := []string{"--port", addrs[0], "--quiet", "--keep-alive", "--health", "/health"}
	if o.Domain != "" {
		args = append(args, "--virtual-domain", o.Domain+":"+port(addrs[0]))
	}
	s.HTTP, s.S3 = "http://"+addrs[0], "s3://"+addrs[0]
	s.ready = func() bool { return status(s.HTTP+"/health") == http.StatusOK }
	if o.PKI != nil {
		cert, key := filepath.Join(dir, "hostcert.pem"), filepath.Join(dir, "hostkey.pem")
		o.PKI.Host.Write(t, cert, key)
		args = append(args, "--cert", cert, "--key", key)
		s.HTTP, s.HTTPS, s.S3 = "", "https://localhost:"+port(addrs[0]), "s3s://localhost:"+port(addrs[0])
		s.ready = func() bool { return dials(addrs[0]) }
	}
	s.command = func() *exec.Cmd {
		cmd := exec.Command(bin, append(args, "posix", "--disable-object-lock-file", s.Dir)...)
		cmd.Dir = dir
		cmd.Env = []string{"ROOT_ACCESS_KEY_ID=" + S3Access, "ROOT_SECRET_ACCESS_KEY=" + S3Secret, "HOME=" + dir}
		return cmd
	}
	t.Cleanup(s.Stop)
	s.start(nil)
	return s
}

// MinIO starts a minio on an empty folder, with a bucket "lake". Its build takes many minutes: who does not want that
// leaves LONG out of the environment, and the test is skipped.
func MinIO(t testing.TB) *Server {
	t.Helper()
	needed.Server(t)
	if os.Getenv("LONG") == "" {
		t.Skip("MinIO is for make test-long")
	}
	bin := built("minio", MinIORev)
	if bin == "" {
		needed.Missing(t, "minio %s is not built (make test-long)", MinIORev)
	}
	dir := folder(t, "minio")
	s := &Server{t: t, name: "minio", Dir: filepath.Join(dir, "data"), Log: filepath.Join(dir, "log")}
	must(t, os.MkdirAll(filepath.Join(s.Dir, "lake"), 0o755)) // on one disk a bucket is a folder
	addrs, ls := listen(t, 2)
	for _, l := range ls {
		l.Close()
	}
	s.HTTP, s.S3 = "http://"+addrs[0], "s3://"+addrs[0]
	// Its health is good before it knows its accounts; somebody without a name is refused then, and not told to come again.
	s.ready = func() bool { return status(s.HTTP+"/lake/") == http.StatusForbidden }
	s.command = func() *exec.Cmd {
		cmd := exec.Command(bin, "server", "--quiet", "--address", addrs[0], "--console-address", addrs[1], s.Dir)
		cmd.Dir = dir
		cmd.Env = []string{"MINIO_ROOT_USER=" + S3Access, "MINIO_ROOT_PASSWORD=" + S3Secret, "MINIO_BROWSER=off", "MINIO_UPDATE=off", "HOME=" + dir}
		return cmd
	}
	t.Cleanup(s.Stop)
	s.start(nil)
	return s
}

// status is what a server answers there; 0: nothing.
func status(url string) int {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// built finds a program where scripts/setup.sh puts it, or in PATH; "" when there is none.
func built(name, version string) string {
	if cache, err := os.UserCacheDir(); err == nil {
		if bin := filepath.Join(cache, "tarn", "servers", name+"@"+version, name); exists(bin) {
			return bin
		}
	}
	bin, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return bin
}
