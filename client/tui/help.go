package tui

// Help is what `grpcchatter chat --help` says beyond its flags.
const Help = `On a terminal it asks for what is not given; /help in a room lists the commands.

When the input or the output is no terminal, where TERM is dumb or empty, and with --plain, it is a line protocol for scripts:

Every line in is a message as it stands, also one that begins with a slash; empty lines are skipped. Every
line out is a message of the room since it was joined, one's own too: "2006-01-02T15:04:05Z name: text", the
time in UTC. In the text a backslash is \\, a line break is \n, and what could harm a terminal is \uXXXX;
"printf %b" of bash undoes that. What else there is to tell goes to the standard error, a line each:
"room CODE" after --create, "connected", "away", "back", "line N was not sent: why".

At the end of the input it waits until all is stored and ends, with status 1 if a line could not be sent. To
only listen, keep the input open: tail -f /dev/null | grpcchatter chat --room CODE`
