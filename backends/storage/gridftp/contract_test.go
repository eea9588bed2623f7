package gridftp

import (
	"os"
	"testing"
	"time"

	"tarn/backends"
	"tarn/backends/backendstest"
	"tarn/backends/credential"
	"tarn/backends/servertest"
)

// rig is a server and the options of a storage on it.
type rig struct {
	*servertest.Server
	pki   *servertest.PKI
	proxy string // the file
	o     Options
}

func anonymous(t testing.TB) *rig {
	srv := servertest.GridFTP(t, servertest.GridFTPOptions{})
	return &rig{Server: srv, o: Options{URL: srv.FTP + srv.Dir}}
}

func grid(t testing.TB) *rig { return gridOf(t, servertest.GridFTPOptions{PKI: servertest.NewPKI(t)}) }

// gridOf is a rig whose server and user are of the PKI in so.
func gridOf(t testing.TB, so servertest.GridFTPOptions) *rig {
	srv, proxy := servertest.GridFTP(t, so), so.PKI.Proxy(t, time.Hour)
	return &rig{Server: srv, pki: so.PKI, proxy: proxy, o: Options{URL: srv.FTP + srv.Dir, Credentials: identity(proxy, so.PKI.Certificates)}}
}

// identity is that of a proxy file, with the authorities of a folder.
func identity(proxy, authorities string) *credential.Source {
	return credential.New(credential.Options{UID: os.Geteuid(), Getenv: env(proxy, authorities)})
}

func env(proxy, authorities string) func(string) string {
	return func(name string) string {
		return map[string]string{"X509_USER_PROXY": proxy, "X509_CERT_DIR": authorities}[name]
	}
}

// open gives a storage with the changes that f makes to the options.
func (r *rig) open(t testing.TB, f func(o *Options)) *Storage {
	t.Helper()
	o := r.o
	if f != nil {
		f(&o)
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestContract(t *testing.T) {
	for name, r := range map[string]*rig{"anonymous": anonymous(t), "GSI": grid(t)} {
		for kind, f := range map[string]func(*Options){
			"plain": func(o *Options) { o.Streams = 1 }, "blocks over 3 streams": func(o *Options) { o.Streams, o.Active = 3, true },
		} {
			t.Run(name+", "+kind, func(t *testing.T) {
				backendstest.Storage(t, func(t *testing.T) backends.Storage {
					dir, err := os.MkdirTemp(r.Dir, "rse")
					if err != nil {
						t.Fatal(err)
					}
					os.Chmod(dir, 0o777)
					return r.open(t, func(o *Options) {
						f(o)
						o.URL = r.FTP + dir
					})
				})
			})
		}
	}
}
