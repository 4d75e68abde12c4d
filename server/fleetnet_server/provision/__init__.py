"""Getting the device library onto boards: which files, as .mpy or source, through mpremote."""
