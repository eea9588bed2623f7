package control

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// Text is a path or name in JSON. Names in a lake may be any bytes, JSON strings may
// not: what is valid UTF-8 is a string, all else {"base64": "..."}.
type Text string

type base64Text struct {
	Base64 string `json:"base64"`
}

// MarshalJSON loses no byte.
func (t Text) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(t)) {
		return json.Marshal(string(t))
	}
	return json.Marshal(base64Text{base64.StdEncoding.EncodeToString([]byte(t))})
}

// UnmarshalJSON reads both forms.
func (t *Text) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var s string
		err := json.Unmarshal(b, &s)
		*t = Text(s)
		return err
	}
	var x base64Text
	if err := json.Unmarshal(b, &x); err != nil {
		return err
	}
	raw, err := base64.StdEncoding.DecodeString(x.Base64)
	if err != nil {
		return fmt.Errorf("name in base64: %w", err)
	}
	*t = Text(raw)
	return nil
}

// Quote makes t fit for one line of a terminal: as it is when every rune can be
// printed, quoted as Go does otherwise.
func (t Text) Quote() string {
	for _, r := range string(t) {
		if r == utf8.RuneError || r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return fmt.Sprintf("%q", string(t))
		}
	}
	return string(t)
}
