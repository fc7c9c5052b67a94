"""Where frames come from: the protocol of an open source, and each engine that opens one."""
