//go:build !unix

package tui

// stopProcess does nothing here: there is no job control.
func stopProcess() {}
