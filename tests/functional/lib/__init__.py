"""What the functional tests stand on: devices, pools, thins, I/O that may hang, checkers."""
