//go:build xrdcl && cgo

package xrootd

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"strconv"
	"strings"
	"sync"

	"tarn/backends/credential"
)

// holder is one identity whose token the library is given. A name for it has its number and that of its token: another
// token is another name, so that what comes after it was renewed goes by a connection that was made with it.
type holder struct {
	source *credential.Source
	secret string // of the name that was given last
	tokens int
}

// holders are all of the process, by number; there are no more than lake files name.
var holders struct {
	sync.Mutex
	all []*holder
}

// holderOf gives the name by which the library asks for the token of a source as it is now.
func holderOf(s *credential.Source) string {
	t, _ := s.Token()
	holders.Lock()
	defer holders.Unlock()
	n := 0
	for n < len(holders.all) && holders.all[n].source != s {
		n++
	}
	if n == len(holders.all) {
		holders.all = append(holders.all, &holder{source: s})
	}
	h := holders.all[n]
	if h.secret != t.Secret {
		h.secret, h.tokens = t.Secret, h.tokens+1
	}
	return C.tarn_xrd_token_prefix + strconv.Itoa(n) + "-" + strconv.Itoa(h.tokens)
}

// tokenOf is that of who has a name, as it is now.
func tokenOf(name string) (credential.Token, error) {
	number, _, _ := strings.Cut(strings.TrimPrefix(name, C.tarn_xrd_token_prefix), "-")
	n, err := strconv.Atoi(number)
	holders.Lock()
	if err != nil || n < 0 || n >= len(holders.all) {
		holders.Unlock()
		return credential.Token{}, nil
	}
	s := holders.all[n].source
	holders.Unlock()
	return s.Token()
}

//export tarnXrdToken
func tarnXrdToken(whose *C.char, text **C.char) C.int {
	t, err := tokenOf(C.GoString(whose))
	switch {
	case err != nil:
		*text = C.CString(err.Error())
	case t.Secret == "":
		*text = C.CString("there is no token")
	default:
		*text = C.CString(t.Secret)
		return 1
	}
	return 0
}

// ownLogin tells whether the library lets login.cc log in.
func ownLogin() bool { return C.tarn_xrd_login_is_ours() != 0 }
