package servertest

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"tarn/integration/needed"
)

// GridFTPOptions say what a GridFTP server is like.
type GridFTPOptions struct {
	// PKI makes it a GSI server; without one it is open to everybody.
	PKI *PKI
	// DNs are who may come in; none means PKI.User.
	DNs []string
	// Dir is the folder it serves; "" is a new one.
	Dir string
	// Config is put at the end of the configuration.
	Config string
}

// GridFTP starts a globus-gridftp-server. Paths on it are those of the machine: URLs are Server.FTP + Server.Dir.
func GridFTP(t testing.TB, o GridFTPOptions) *Server {
	t.Helper()
	needed.Server(t)
	bin := "/usr/sbin/globus-gridftp-server"
	if !exists(bin) {
		needed.Missing(t, "%s is not there (package globus-gridftp-server-progs)", bin)
	}
	uid, gid := account("nobody") // it would become the mapped user otherwise
	dir := folder(t, "gridftp")
	s := &Server{t: t, name: "globus-gridftp-server", Dir: filepath.Join(dir, "data"), Log: filepath.Join(dir, "log")}
	must(t, os.Mkdir(s.Dir, 0o755))
	if o.Dir != "" {
		s.Dir = o.Dir
	}
	must(t, os.Chown(s.Dir, uid, gid))
	must(t, os.WriteFile(s.Log, nil, 0o666))
	must(t, os.Chown(s.Log, uid, gid))
	// It takes no socket from us: its port is free now, and nobody is likely to take it.
	addrs, ls := listen(t, 1)
	for _, l := range ls {
		l.Close()
	}
	var c strings.Builder
	fmt.Fprintf(&c, "port %s\ncontrol_interface 127.0.0.1\ndata_interface 127.0.0.1\nhome_dir /\nthreads 1\nlog_level ERROR,WARN,INFO\nlog_single %s\n$HOME %q\n", port(addrs[0]), s.Log, dir)
	if o.PKI == nil {
		c.WriteString("allow_anonymous 1\nanonymous_names_allowed *\n")
		s.FTP = "ftp://" + addrs[0]
	} else {
		cert, key := filepath.Join(dir, "hostcert.pem"), filepath.Join(dir, "hostkey.pem")
		s.certify = func(id *Identity) {
			id.Write(t, cert, key)
			must(t, os.Chown(cert, uid, gid))
			must(t, os.Chown(key, uid, gid))
		}
		s.certify(o.PKI.Host)
		gridmap := filepath.Join(dir, "grid-mapfile")
		dns := o.DNs
		if dns == nil {
			dns = []string{o.PKI.User.DN()}
		}
		who, err := user.LookupId(strconv.Itoa(uid))
		must(t, err)
		var lines strings.Builder
		for _, dn := range dns {
			fmt.Fprintf(&lines, "%q %s\n", dn, who.Username)
		}
		must(t, os.WriteFile(gridmap, []byte(lines.String()), 0o644))
		fmt.Fprintf(&c, "hostname localhost\nallow_disabled_login 1\n$X509_CERT_DIR %q\n$X509_USER_CERT %q\n$X509_USER_KEY %q\n$GRIDMAP %q\n", o.PKI.Certificates, cert, key, gridmap)
		s.FTP = "gsiftp://localhost:" + port(addrs[0])
	}
	c.WriteString(o.Config + "\n")
	conf := filepath.Join(dir, "gridftp.conf")
	must(t, os.WriteFile(conf, []byte(c.String()), 0o644))
	s.command = func() *exec.Cmd {
		run := as(uid, gid, bin, "-c", conf)
		cmd := exec.Command(run[0], run[1:]...)
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
		return cmd
	}
	s.ready = func() bool { return dials(addrs[0]) }
	t.Cleanup(s.Stop)
	s.start(nil)
	return s
}
