// Package query is the metadata query language of tarn: DIRAC's made regular.
package query

// Expr is a parsed query.
type Expr interface {
	// String prints the query so that Parse reads it back as an equal one.
	String() string
	// Match tells whether the query holds for what get gives for each key.
	Match(get func(key string) (any, bool)) bool
}
