module example.org/syncevents

go 1.19
