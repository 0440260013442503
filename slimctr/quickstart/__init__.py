"""The demo: real clicks to a served experiment in one command.

`pipeline` prepares clicks, trains, compresses and publishes; `server` runs the service as a child process;
`traffic` sends rows and outcomes over HTTP; `table` shows the result.
"""
