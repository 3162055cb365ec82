//go:build !unix

package tui

import "os"

// notifyResize does nothing here: a new size is seen with the next key or message.
func notifyResize(chan<- os.Signal) {}

func stopResize(chan<- os.Signal) {}

// stopProcess does nothing here: there is no job control.
func stopProcess() {}
