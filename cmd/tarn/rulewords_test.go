package main

import (
	"reflect"
	"strings"
	"testing"

	"tarn/backends"
)

func TestRuleInWords(t *testing.T) {
	for _, c := range []struct {
		words string
		want  backends.Rule
		life  string
	}{
		{"rse=PIC-DISK", backends.Rule{Copies: 1, Expression: "PIC-DISK"}, ""},
		{"copies=2 rse=country=ES&tier>0", backends.Rule{Copies: 2, Expression: "country=ES&tier>0"}, ""},
		{"  rse='CNAF-DISK | PIC-DISK'\tfrom=\"PIC-DISK\" ", backends.Rule{Copies: 1, Expression: "CNAF-DISK | PIC-DISK", Source: "PIC-DISK"}, ""},
		{"rse=A lifetime=30d activity=Raw priority=5 weight=share grouping=none comment='for the night'",
			backends.Rule{Copies: 1, Expression: "A", Activity: "Raw", Priority: 5, Weight: "share", Grouping: backends.GroupNone, Comment: "for the night"}, "30d"},
		{`rse=A comment="it's late"`, backends.Rule{Copies: 1, Expression: "A", Comment: "it's late"}, ""},
	} {
		got, err := parseRule(c.words)
		if err != nil || !reflect.DeepEqual(got.Rule, c.want) || got.lifetime != c.life {
			t.Errorf("%q is %+v, %v; want %+v", c.words, got, err, c.want)
		}
	}
}

func TestRuleInWordsFaults(t *testing.T) {
	for _, c := range []struct{ words, say string }{
		{"", "no rse="},
		{"copies=0 rse=A", "copies: want a number from 1 on"},
		{"copies=x", "no rse="}, // and the other fault, too
		{"copies=x", "copies: want"},
		{"rse=A rse=B", "given twice"},
		{"rse=A&&B", "rse: "},
		{"rse=A from=((B", "from: "},
		{"rse=A country=ES", "behind rse="},
		{"rse=A PIC", "want KEY=VALUE"},
		{"rse='A", "not closed"},
		{"rse=A priority=9", "1 to 5"},
		{"rse=A grouping=SOME", "ALL, DATASET or NONE"},
		{"rse=A lifetime=soon", "lifetime: "},
		{"rse=A lifetime=0s", "lifetime: "},
	} {
		if _, err := parseRule(c.words); err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%q: error %v, want it to say %q", c.words, err, c.say)
		}
	}
}

func FuzzRuleInWords(f *testing.F) {
	f.Add("copies=1 rse=PIC-DISK from='A|B' lifetime=30d")
	f.Add(`rse="x y" comment='`)
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseRule(s)
		if err != nil {
			return
		}
		if r.Copies < 1 || r.Expression == "" {
			t.Errorf("%q gave %+v", s, r)
		}
	})
}
