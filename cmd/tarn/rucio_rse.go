package main

import (
	"cmp"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"tarn/backends/catalogue/rucio/rest"
	"tarn/backends/naming"
	"tarn/cmd/tarn/config"
)

// remoteRSE is an RSE that Rucio describes, in the words of a lake file.
type remoteRSE struct {
	config.RSE
	// Unspoken are its protocols that tarn does not speak, or that lead nowhere from here, each with the reason.
	Unspoken []string
	// Closed says why nothing is written there, "" when it is.
	Closed string
	// Unread says why nothing is read there.
	Unread string
	// Staging is the RSE to which files of this tape RSE are brought; "": none of its own.
	Staging string
}

// Rucio's words for the attributes that count here (lib/rucio/common/constants.py, RseAttr).
const (
	attrTape    = "istape"
	attrStaging = "staging_buffer"
)

// rseOf translates what Rucio says of an RSE, with what the lake file says over it. Rucio's priorities of read, write and delete in
// lan and wan are the same numbers here.
func rseOf(r rest.RSE, over config.RSE) remoteRSE {
	out := remoteRSE{RSE: over}
	out.Name, out.Kind = r.Name, config.Disk
	if r.Type == "TAPE" || isTrue(r.Attributes[attrTape]) {
		out.Kind = config.TapeKind
		out.Staging = r.Attributes[attrStaging]
	}
	out.Attributes = map[string]string{}
	for _, from := range []map[string]string{r.Attributes, over.Attributes} {
		for k, v := range from {
			if !slices.Contains([]string{"rse", "name", "rse_type", r.Name}, k) { // these are known of every RSE
				out.Attributes[k] = v
			}
		}
	}
	if out.Naming = naming.Unique; r.Deterministic {
		out.Naming = r.LFN2PFN()
	}
	switch {
	case over.ReadOnly:
		out.Closed = "the lake file says read_only"
	case !r.Write:
		out.Closed = "Rucio has closed it for writing (availability_write)"
	case out.Kind == config.TapeKind:
		out.Closed = "it is a tape: files come there by rules"
	case r.Staging:
		out.Closed = "it is a staging area: files come there from tape"
	}
	if !r.Read {
		out.Unread = "Rucio has closed it for reading (availability_read)"
	}
	out.Protocols = nil
	for _, p := range r.Protocols {
		c, why := protocolOf(p, over)
		if why != "" {
			out.Unspoken = append(out.Unspoken, why)
			continue
		}
		out.Protocols = append(out.Protocols, c)
	}
	out.Path = ""
	if len(r.Protocols) == 0 {
		out.Unspoken = append(out.Unspoken, "Rucio knows no protocol of it")
	}
	return out
}

func isTrue(s string) bool { return strings.EqualFold(s, "true") || s == "1" }

// protocolOf translates one protocol; why says what keeps it from being used.
func protocolOf(p rest.Protocol, over config.RSE) (c config.Protocol, why string) {
	if !slices.Contains(config.Schemes, p.Scheme) {
		return c, fmt.Sprintf("%s://%s: tarn does not speak %s", p.Scheme, p.Hostname, p.Scheme)
	}
	root := p.Root()
	if p.Scheme == "file" {
		root = cmp.Or(over.Path, root)
		c.URL = (&url.URL{Scheme: "file", Path: path.Clean("/" + root)}).String()
	} else {
		u, err := url.Parse(root)
		if err != nil || u.Hostname() == "" || u.User != nil {
			return c, fmt.Sprintf("%s://%s: its URL makes no sense", p.Scheme, p.Hostname)
		}
		u.RawQuery, u.Fragment = "", ""
		if p.Scheme == "s3" && p.Port == 443 {
			u.Scheme = "s3s" // Rucio has one word for both
		}
		c.URL = u.String()
	}
	lan, wan := domainOf(p.Domains["lan"]), domainOf(p.Domains["wan"])
	c.LAN, c.WAN = &lan, &wan
	for _, o := range over.Protocols {
		if !sameDoor(c, o) {
			continue
		}
		if scheme, _, _ := strings.Cut(o.URL, ":"); scheme != "" && o.Family() == c.Family() { // s3s for s3: it has TLS
			_, rest, _ := strings.Cut(c.URL, ":")
			c.URL = scheme + ":" + rest
		}
		c.Keys, c.Style, c.Region, c.Proxy, c.Token, c.Limits = o.Keys, o.Style, o.Region, o.Proxy, o.Token, o.Limits
		for _, d := range []*config.Domain{c.LAN, c.WAN} {
			d.Read, d.Write, d.Delete = cmp.Or(o.Read, d.Read), cmp.Or(o.Write, d.Write), cmp.Or(o.Delete, d.Delete)
		}
	}
	return c, ""
}

// domainOf takes over Rucio's priorities; what it does not name is not offered.
func domainOf(of map[string]rest.Int) config.Domain {
	rank := func(op string) *int {
		n := max(int(of[op]), 0) // null is Unknown, -1
		return &n
	}
	none := 0 // copies between servers are Rucio's
	return config.Domain{Read: rank("read"), Write: rank("write"), Delete: rank("delete"), CopyRead: &none, CopyWrite: &none}
}

// sameDoor tells whether an override of the lake file is of this protocol: of the same family, host and port.
func sameDoor(c, o config.Protocol) bool {
	if c.Family() != o.Family() {
		return false
	}
	if strings.HasPrefix(c.URL, "file:") {
		return true
	}
	a, aerr := url.Parse(c.URL)
	b, berr := url.Parse(o.URL)
	if aerr != nil || berr != nil || !strings.EqualFold(a.Hostname(), b.Hostname()) {
		return false
	}
	return a.Port() == b.Port() || c.Door() == o.Door()
}
