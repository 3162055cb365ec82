package tui

import (
	"io"

	tea "charm.land/bubbletea/v2"
)

// suspend gives the terminal back and stops the program, as Ctrl-Z does where the terminal handles it, until the shell
// goes on with it. tea.Suspend would wait for ever where no shell can.
func suspend() tea.Cmd { return tea.Exec(stopped{}, nil) }

// stopped is a tea.ExecCommand that only stops the process.
type stopped struct{}

func (stopped) Run() error {
	stopProcess()
	return nil
}

func (stopped) SetStdin(io.Reader)  {}
func (stopped) SetStdout(io.Writer) {}
func (stopped) SetStderr(io.Writer) {}
