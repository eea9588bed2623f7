package servertest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tarn/integration/needed"
)

// XRootDOptions say what an XRootD server is like.
type XRootDOptions struct {
	// PKI makes it serve HTTPS, where proxies are mapped by PKI.GridMap, in place of plain HTTP.
	PKI *PKI
	// Issuer is trusted for bearer tokens; needs PKI and root. Their scopes are relative to /data.
	Issuer *Issuer
	// Authorize refuses all but the mapped user, members of VO, and who has a token for it; needs PKI. Below
	// /data/pub everybody may read.
	Authorize bool
	// Login is how clients of the root protocol have to say who they are, any one of these: gsi with VOMS
	// (needs PKI), ztn (needs Issuer), sss.
	Login []string
	// Redirect makes it a redirector, without anything of its own, to this one.
	Redirect *Server
	// Manager makes it the manager of a cluster (cmsd), with nothing of its own: clients are sent to those whose Of it is.
	Manager bool
	Of      *Server
	// NoChecksums makes it know none.
	NoChecksums bool
	// Tape makes /tape a buffer in front of Server.Tape: what lies only there is offline, and brought within a second
	// when it is opened.
	Tape bool
	// ThirdParty makes it fetch files from others, with the proxy of who asks where that is handed over, and lets others fetch.
	ThirdParty bool
	// HandedOver lets those in who come with a proxy that a server was handed over; those of ThirdParty do, too.
	HandedOver bool
	// Config is put at the end of the configuration.
	Config string
}

// XRootD starts a server that exports /data, by the root protocol and by HTTP.
func XRootD(t testing.TB, o XRootDOptions) *Server {
	t.Helper()
	needed.Server(t)
	if _, err := exec.LookPath("xrootd"); err != nil {
		needed.Missing(t, "xrootd is not installed (packages xrootd-server and xrootd-server-plugins)")
	}
	if o.Issuer != nil {
		needed.Root(t) // libSciTokens takes authorities from the system's bundle only: it gets a name space of its own
	}
	uid, gid := account("xrootd") // it refuses to run as root
	if uid == 0 {
		needed.Missing(t, "there is no user xrootd (package xrootd-server makes it)")
	}
	dir := folder(t, "xrootd")
	s := &Server{t: t, name: "xrootd", Dir: filepath.Join(dir, "root"), Log: filepath.Join(dir, "xrootd.log")}
	for _, d := range []string{"root", "root/data", "run", "cred", "cache"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
		must(t, os.Chown(filepath.Join(dir, d), uid, gid))
	}
	addrs, ls := listen(t, 2)
	s.addrs = addrs
	s.Root = "root://" + addrs[0]
	if len(o.Login) > 0 {
		s.Root = "root://localhost:" + port(addrs[0]) // GSI looks whether the certificate is for it
	}
	s.HTTP = "http://" + addrs[1]
	var c strings.Builder
	fmt.Fprintf(&c, `xrd.port %s
xrd.network nodnr norpipa
xrd.protocol http:%s libXrdHttp.so
all.role server
all.export /data
oss.localroot %[3]s/root
all.adminpath %[3]s/run
all.pidpath %[3]s/run
xrootd.async off
ofs.persist off
http.listingdeny no
http.header2cgi Authorization authz
`, port(addrs[0]), port(addrs[1]), dir)
	if !o.NoChecksums {
		c.WriteString("xrootd.chksum max 4 adler32 crc32c md5\n")
	}
	if o.Tape {
		tape(t, s, &c, uid, gid)
	}
	if o.ThirdParty {
		// What fetches ends with the server: by itself it waits for half an hour for a source that is gone.
		c.WriteString("ofs.tpc fcreds ?gsi =X509_USER_PROXY ttl 60 60 xfr 4 pgm /usr/bin/setpriv --pdeathsig=KILL /usr/bin/xrdcp --server\n")
	}
	if o.Manager || o.Of != nil {
		cluster(t, s, o, &c, uid, gid)
	}
	if o.Redirect != nil {
		// By path is for what opens or looks, which leaves others out.
		to := strings.TrimPrefix(o.Redirect.Root, "root://")
		fmt.Fprintf(&c, "xrootd.redirect %s all\nxrootd.redirect %[1]s /data\n", to)
	}
	bundle, openssl := "", ""
	if o.PKI != nil && (o.ThirdParty || o.HandedOver) {
		// A proxy that XRootD 5 has been handed over is signed with SHA-1, which OpenSSL 3 refuses in TLS.
		openssl = filepath.Join(dir, "openssl.cnf")
		must(t, os.WriteFile(openssl, []byte("openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\nCipherString = DEFAULT@SECLEVEL=0\n"), 0o644))
	}
	if o.PKI != nil {
		s.HTTP, s.HTTPS = "", "https://localhost:"+port(addrs[1])
		s.Roots = "roots://localhost:" + port(addrs[0])
		cert, key := filepath.Join(dir, "cred/hostcert.pem"), filepath.Join(dir, "cred/hostkey.pem")
		s.certify = func(id *Identity) {
			id.Write(t, cert, key)
			must(t, os.Chown(key, uid, gid))
		}
		s.certify(o.PKI.Host)
		fmt.Fprintf(&c, `xrd.tlsca certdir %[1]s refresh 60s proxies
xrd.tls %[2]s %[3]s
xrootd.tls capable all -data
http.gridmap %[4]s
http.selfhttps2http no
http.desthttps yes
http.exthandler xrdtpc libXrdHttpTPC.so
`, o.PKI.Certificates, cert, key, o.PKI.GridMap)
		if o.Authorize {
			db := filepath.Join(dir, "authdb")
			must(t, os.WriteFile(db, []byte("u "+GridUser+" /data a\no "+VO+" /data a\nu * /data/pub rl\n"), 0o644))
			fmt.Fprintf(&c, "ofs.authorize 1\nacc.authdb %s\nacc.authrefresh 60\n", db)
		}
		if o.Issuer != nil {
			tokens := filepath.Join(dir, "scitokens.cfg")
			must(t, os.WriteFile(tokens, fmt.Appendf(nil, "[Global]\naudience = %s\nonmissing = passthrough\n\n[Issuer test]\nissuer = %s\nbase_path = /data\nmap_subject = False\n", Audience, o.Issuer.URL), 0o644))
			fmt.Fprintf(&c, "ofs.authlib ++ libXrdAccSciTokens.so config=%s\n", tokens)
			bundle = filepath.Join(dir, "bundle.pem")
			must(t, os.WriteFile(bundle, pemOf("CERTIFICATE", o.PKI.CA.Cert.Raw), 0o644))
		}
	}
	logins(t, s, o, &c, uid, gid)
	c.WriteString(o.Config + "\n")
	conf := filepath.Join(dir, "xrootd.cfg")
	must(t, os.WriteFile(conf, []byte(c.String()), 0o644))
	s.command = func() *exec.Cmd {
		// There is no directive for an address to listen at, but sockets in systemd's way are taken.
		run := append(as(uid, gid, "sh", "-c", `LISTEN_PID=$$ exec "$@"`, "-"), "xrootd", "-I", "v4", "-n", "test", "-c", conf)
		if bundle != "" {
			run = append([]string{"unshare", "-m", "--propagation", "private", "sh", "-c",
				// A mount of tarn would live on in it after its end outside.
				"umount -alt fuse.tarn; mount --bind " + bundle + ` /etc/ssl/certs/ca-certificates.crt && exec "$@"`, "-"}, run...)
		}
		cmd := exec.Command(run[0], run[1:]...)
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "XDG_CACHE_HOME=" + filepath.Join(dir, "cache"), fmt.Sprint("LISTEN_FDS=", len(addrs))}
		if o.PKI != nil {
			cmd.Env = append(cmd.Env, "X509_VOMS_DIR="+o.PKI.VOMSDir, "X509_CERT_DIR="+o.PKI.Certificates)
		}
		if openssl != "" {
			cmd.Env = append(cmd.Env, "OPENSSL_CONF="+openssl)
		}
		return cmd
	}
	began := 0
	s.ready = func() bool {
		b, _ := os.ReadFile(s.Log)
		done := strings.Count(string(b), "------ xrootd test@")
		if done <= began {
			return false
		}
		began = done
		return dials(addrs[1])
	}
	t.Cleanup(s.Stop)
	s.start(ls)
	return s
}

// cluster configures a node of one and starts its cmsd, which has the same configuration but for the port.
func cluster(t testing.TB, s *Server, o XRootDOptions, c *strings.Builder, uid, gid int) {
	if _, err := exec.LookPath("cmsd"); err != nil {
		needed.Missing(t, "cmsd is not installed (package xrootd-server)")
	}
	dir := filepath.Dir(s.Dir)
	addrs, ls := listen(t, 1)
	s.Cluster = &Server{t: t, name: "cmsd", Dir: s.Dir, Log: filepath.Join(dir, "cmsd.log"), addrs: addrs}
	role, manager := "manager", addrs[0]
	if o.Of != nil {
		role, manager = "server", o.Of.Cluster.addrs[0]
	}
	fmt.Fprintf(c, `all.role %s
all.manager %s
cms.allow host *
cms.delay startup 1 servers 1 lookup 1 drop 2 hold 1
cms.space min 1m 1m
`, role, manager)
	conf := filepath.Join(dir, "cmsd.cfg")
	text := strings.Replace(c.String(), "xrd.port "+port(s.addrs[0]), "xrd.port "+port(addrs[0]), 1)
	must(t, os.WriteFile(conf, []byte(strings.Replace(text, "xrd.protocol http", "# ", 1)), 0o644))
	s.Cluster.command = func() *exec.Cmd {
		run := append(as(uid, gid, "sh", "-c", `LISTEN_PID=$$ exec "$@"`, "-"), "cmsd", "-I", "v4", "-n", "test", "-c", conf)
		cmd := exec.Command(run[0], run[1:]...)
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LISTEN_FDS=1"}
		return cmd
	}
	s.Cluster.ready = func() bool {
		b, _ := os.ReadFile(s.Cluster.Log)
		return strings.Contains(string(b), "------ cmsd test@") && dials(addrs[0])
	}
	t.Cleanup(s.Cluster.Stop)
	s.Cluster.start(ls)
}

// logins configures those of the root protocol.
func logins(t testing.TB, s *Server, o XRootDOptions, c *strings.Builder, uid, gid int) {
	if len(o.Login) == 0 {
		return
	}
	cred := filepath.Join(filepath.Dir(s.Dir), "cred")
	fmt.Fprintf(c, "xrootd.seclib libXrdSec.so\n")
	for _, l := range o.Login {
		switch l {
		case "gsi":
			fmt.Fprintf(c, "sec.protocol gsi -certdir:%[1]s -crldir:%[1]s -crl:1 -ca:1 -cert:%[2]s/hostcert.pem -key:%[2]s/hostkey.pem -gridmap:%[3]s -gmapopt:11 "+
				"-vomsat:1 -vomsfun:default -vomsfunparms:certfmt=raw|vos=%[4]s", o.PKI.Certificates, cred, o.PKI.GridMap, VO)
			if o.ThirdParty {
				c.WriteString(" -dlgpxy:1 -exppxy:=creds")
			}
			c.WriteString("\n")
		case "ztn":
			fmt.Fprintf(c, "sec.protocol ztn\n")
		case "sss":
			s.Keytab = filepath.Join(t.TempDir(), "sss.keytab")
			out, err := exec.Command("xrdsssadmin", "-k", "test", "-u", GridUser, "-g", VO, "add", s.Keytab).CombinedOutput()
			if err != nil {
				t.Fatalf("xrdsssadmin: %v\n%s", err, out)
			}
			b, err := os.ReadFile(s.Keytab)
			must(t, err)
			own := filepath.Join(cred, "sss.keytab")
			must(t, writeSecret(own, b))
			must(t, os.Chown(own, uid, gid))
			fmt.Fprintf(c, "sec.protocol sss -s %s\n", own)
		}
	}
	fmt.Fprintf(c, "sec.protbind * only %s\n", strings.Join(o.Login, " "))
}

// tape configures a folder that stands for tapes. The server asks one script what is there (oss.rsscmd), whose first line is an
// errno, and brings a file by the other (oss.stagecmd), while clients are told to wait.
func tape(t testing.TB, s *Server, c *strings.Builder, uid, gid int) {
	dir := filepath.Dir(s.Dir)
	s.Tape = filepath.Join(dir, "tapes")
	for _, d := range []string{s.Tape, filepath.Join(s.Dir, "tape")} {
		must(t, os.Mkdir(d, 0o755))
		must(t, os.Chown(d, uid, gid))
	}
	script := func(name, text string) string {
		file := filepath.Join(dir, name)
		must(t, os.WriteFile(file, []byte("#!/bin/bash\n"+strings.ReplaceAll(text, "TAPES", s.Tape)), 0o755))
		return file
	}
	look := script("look.sh", `f=TAPES/${2#/tape/}
[ -e "$f" ] || { echo 2; exit; }
echo 0
[ "$1" = exists ] || stat -c "- rw-r--r-- %h %u %g %X %Z %Y %s %o %b" "$f"
`)
	stage := script("stage.sh", `sleep 1; mkdir -p "${2%/*}"; cp "TAPES/${1#/tape/}" "$2.anew" && mv "$2.anew" "$2"
`)
	fmt.Fprintf(c, "all.export /tape stage check nodread\noss.rsscmd %s\noss.stagecmd sync %s\noss.xfr deny 5 keep 60 2 1g 1\n", look, stage)
}
