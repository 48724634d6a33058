"""Looking at a daemon and its surroundings from outside: `synceventsd status` and `synceventsd doctor`.

`asking` speaks HTTP, the probes look at the machine, `commands` is what an operator types. What is found is judged in
`core`; nothing here changes anything.
"""
