package servertest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"tarn/integration/needed"
)

// apacheModules is where Debian has them.
const apacheModules = "/usr/lib/apache2/modules"

// ApacheOptions say what an Apache httpd is like.
type ApacheOptions struct {
	// PKI makes it serve HTTPS as well.
	PKI *PKI
	// Config is put at the end of the configuration.
	Config string
}

// Apache starts an Apache httpd with mod_dav on an empty folder, with the modules and limits that sites mostly have.
func Apache(t testing.TB, o ApacheOptions) *Server {
	t.Helper()
	needed.Server(t)
	bin, err := exec.LookPath("apache2")
	if err != nil {
		if bin = "/usr/sbin/apache2"; !exists(bin) {
			needed.Missing(t, "Apache httpd is not installed (package apache2-bin)")
		}
	}
	uid, gid := account("nobody") // it serves nobody's files as root
	dir := folder(t, "apache")
	s := &Server{t: t, name: "apache2", Dir: filepath.Join(dir, "data"), Log: filepath.Join(dir, "log")}
	for _, d := range []string{"data", "locks"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
		must(t, os.Chown(filepath.Join(dir, d), uid, gid))
	}
	// It takes no sockets from us: its ports are free now, and nobody is likely to take them.
	addrs, ls := listen(t, 2)
	for _, l := range ls {
		l.Close()
	}
	s.HTTP = "http://" + addrs[0]
	tls := ""
	if o.PKI != nil {
		s.HTTPS = "https://localhost:" + port(addrs[1])
		tls = fmt.Sprintf(`LoadModule ssl_module %s/mod_ssl.so
Listen %[2]s https
<VirtualHost %[2]s>
  SSLEngine on
  SSLCertificateFile %[3]s/hostcert.pem
  SSLCertificateKeyFile %[3]s/hostkey.pem
</VirtualHost>
`, apacheModules, addrs[1], o.PKI.Dir)
	}
	who := ""
	if os.Geteuid() == 0 {
		who = fmt.Sprintf("User #%d\nGroup #%d\n", uid, gid)
	}
	conf := filepath.Join(dir, "httpd.conf")
	text := fmt.Sprintf("ServerRoot %[1]s\nServerName localhost\nDefaultRuntimeDir %[1]s\nPidFile %[1]s/pid\nErrorLog %[1]s/log\nListen %[2]s\n", dir, addrs[0])
	for _, m := range []string{"mpm_event", "authz_core", "dir", "mime", "setenvif", "reqtimeout", "dav", "dav_fs"} {
		text += fmt.Sprintf("LoadModule %s_module %s/mod_%[1]s.so\n", m, apacheModules)
	}
	text += who + tls + fmt.Sprintf(`StartServers 1
ServerLimit 2
ThreadsPerChild 64
MaxRequestWorkers 128
TypesConfig /dev/null
DavLockDB %[1]s/locks/db
DocumentRoot %[1]s/data
<Directory %[1]s/data>
  Require all granted
  Dav On
</Directory>
`, dir) + o.Config + "\n"
	must(t, os.WriteFile(conf, []byte(text), 0o644))
	s.command = func() *exec.Cmd {
		cmd := exec.Command(bin, "-f", conf, "-DFOREGROUND")
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
		return cmd
	}
	s.ready = func() bool { return status(s.HTTP+"/") != 0 }
	t.Cleanup(s.Stop)
	s.start(nil)
	return s
}
