package servertest

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"tarn/integration/needed"
)

const davExt = "/usr/lib/nginx/modules/ngx_http_dav_ext_module.so"

// NGINXOptions say what an nginx is like.
type NGINXOptions struct {
	// PKI makes it serve HTTPS as well.
	PKI *PKI
	// ClientCertificate refuses who shows none of the PKI's authority (proxies are none to nginx's OpenSSL).
	ClientCertificate bool
	// Server is put into the server block.
	Server string
}

// NGINX starts an nginx with WebDAV (dav and dav_ext modules) on an empty folder.
func NGINX(t testing.TB, o NGINXOptions) *Server {
	t.Helper()
	needed.Server(t)
	bin, err := exec.LookPath("nginx")
	if err != nil {
		if bin = "/usr/sbin/nginx"; !exists(bin) {
			needed.Missing(t, "nginx is not installed (package nginx-light)")
		}
	}
	if !exists(davExt) {
		needed.Missing(t, "nginx has no dav_ext module (package libnginx-mod-http-dav-ext)")
	}
	dir := folder(t, "nginx")
	s := &Server{t: t, name: "nginx", Dir: filepath.Join(dir, "data"), Log: filepath.Join(dir, "log")}
	must(t, os.Mkdir(s.Dir, 0o755))
	n := 1
	if o.PKI != nil {
		n = 2
	}
	addrs, ls := listen(t, n)
	s.addrs = addrs
	s.HTTP = "http://" + addrs[0]
	listens := "listen " + addrs[0] + ";"
	if o.PKI != nil {
		s.HTTPS = "https://localhost:" + port(addrs[1])
		listens += fmt.Sprintf(" listen %s ssl; ssl_certificate %s/hostcert.pem; ssl_certificate_key %s/hostkey.pem;", addrs[1], o.PKI.Dir, o.PKI.Dir)
		if o.ClientCertificate {
			ca := filepath.Join(dir, "ca.pem")
			must(t, os.WriteFile(ca, pemOf("CERTIFICATE", o.PKI.CA.Cert.Raw), 0o644))
			listens += fmt.Sprintf(" ssl_client_certificate %s; ssl_verify_client on;", ca)
		}
	}
	asRoot := ""
	if os.Geteuid() == 0 {
		asRoot = "user root;"
	}
	conf := filepath.Join(dir, "nginx.conf")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, `load_module %s;
%s daemon off; worker_processes 1; pid %[3]s/pid; error_log %[3]s/log;
events { worker_connections 512; }
http {
  access_log off; client_body_temp_path %[3]s/body; proxy_temp_path %[3]s/p; fastcgi_temp_path %[3]s/f; uwsgi_temp_path %[3]s/u; scgi_temp_path %[3]s/s;
  dav_ext_lock_zone zone=locks:1m;
  server {
    %[4]s
    client_max_body_size 0; keepalive_requests 100000;
    %[5]s
    location / {
      root %[3]s/data;
      dav_methods PUT DELETE MKCOL COPY MOVE; dav_ext_methods PROPFIND OPTIONS LOCK UNLOCK; dav_ext_lock zone=locks;
      dav_access user:rw group:r all:r; create_full_put_path off;
    }
  }
}
`, davExt, asRoot, dir, listens, o.Server), 0o644))
	s.command = func() *exec.Cmd {
		cmd := exec.Command(bin, "-e", s.Log, "-c", conf)
		cmd.Env = append(os.Environ(), "NGINX=") // its own way to inherit sockets, made for upgrades
		for i := range addrs {
			cmd.Env[len(cmd.Env)-1] += fmt.Sprint(3+i, ";")
		}
		return cmd
	}
	hc := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	s.ready = func() bool {
		resp, err := hc.Get(s.HTTP + "/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return true
	}
	t.Cleanup(s.Stop)
	s.start(ls)
	return s
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
