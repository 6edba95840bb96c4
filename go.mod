module repmgr

go 1.26.0
