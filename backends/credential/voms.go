package credential

import (
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"strings"
	"time"
)

// VOMS is what an attribute certificate in a proxy says of the person. Nobody has proved it here: that
// is for servers to do.
type VOMS struct {
	VO      string    `json:"vo"`
	FQANs   []string  `json:"fqans,omitempty"` // groups and roles, the primary one first: /ctao/Role=production
	Expires time.Time `json:"expires"`
}

var (
	oidAttributeCertificates = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 8005, 100, 100, 5}
	oidFQANs                 = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 8005, 100, 100, 4}
)

// vomsOf reads the attribute certificates (RFC 5755) of a proxy, in the form of VOMS: an extension that is
// a sequence of sequences of them. What cannot be read is left out.
func vomsOf(c *x509.Certificate) []VOMS {
	var out []VOMS
	for _, ext := range c.Extensions {
		if !ext.Id.Equal(oidAttributeCertificates) {
			continue
		}
		var lists [][]asn1.RawValue
		if _, err := asn1.Unmarshal(ext.Value, &lists); err != nil {
			continue
		}
		for _, list := range lists {
			for _, raw := range list {
				if v, ok := parseAttributes(raw.FullBytes); ok {
					out = append(out, v)
				}
			}
		}
	}
	return out
}

// parseAttributes reads one attribute certificate.
func parseAttributes(der []byte) (v VOMS, ok bool) {
	var ac struct {
		Info struct {
			Version        int
			Holder, Issuer asn1.RawValue
			Algorithm      asn1.RawValue
			Serial         *big.Int
			Validity       struct {
				From time.Time `asn1:"generalized"`
				To   time.Time `asn1:"generalized"`
			}
			Attributes []struct {
				Type   asn1.ObjectIdentifier
				Values []asn1.RawValue `asn1:"set"`
			}
		}
	}
	if _, err := asn1.Unmarshal(der, &ac); err != nil {
		return v, false
	}
	v.Expires = ac.Info.Validity.To
	for _, a := range ac.Info.Attributes {
		if !a.Type.Equal(oidFQANs) {
			continue
		}
		for _, raw := range a.Values {
			v.addSyntax(raw.FullBytes)
		}
	}
	return v, true
}

// addSyntax reads an IetfAttrSyntax: its policy authority is vo://host:port, its values are FQANs.
func (v *VOMS) addSyntax(der []byte) {
	var parts []asn1.RawValue
	if _, err := asn1.Unmarshal(der, &parts); err != nil {
		return
	}
	for _, p := range parts {
		var in []asn1.RawValue
		switch {
		case p.Class == asn1.ClassContextSpecific && p.Tag == 0:
			for rest := p.Bytes; len(rest) > 0; {
				var name asn1.RawValue
				var err error
				if rest, err = asn1.Unmarshal(rest, &name); err != nil {
					return
				}
				const uri = 6 // of GeneralName
				if name.Tag == uri {
					v.VO, _, _ = strings.Cut(printable(name.Bytes), "://")
				}
			}
		case p.Tag == asn1.TagSequence:
			if _, err := asn1.Unmarshal(p.FullBytes, &in); err != nil {
				return
			}
			for _, f := range in {
				if f.Tag == asn1.TagOctetString {
					v.FQANs = append(v.FQANs, printable(f.Bytes))
				}
			}
		}
	}
}

// printable is text that a terminal may be shown.
func printable(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, string(b))
}
