package main

import "runtime/debug"

// fault runs f and makes an error of a page that could not be had.
func fault(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			err = errFault
		}
	}()
	return f()
}
