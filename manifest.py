# Freezes the device library into a firmware. From a board's manifest:
#
#     include("/path/to/fleetnet/manifest.py")                       everything
#     include("/path/to/fleetnet/manifest.py", parts="core")         what telemetry needs
#     include("/path/to/fleetnet/manifest.py", parts="spool,blobs")  the core and these parts
#
# Parts are called as their modules; docs/memory.md lists them with their sizes. The files come
# from the tree by the rule of server/fleetnet_server/provision/library.py, which needs Python's
# standard library alone.

import os
import sys

metadata(description="The secure wire between devices and their back-end", version="0.1.0")
options.defaults(parts="all")

_here = os.getcwd()  # the tool that reads manifests runs each in its folder
sys.path[:0] = [_here, os.path.join(_here, "server")]
try:
    from fleetnet_server.provision.library import choose, library
finally:
    del sys.path[:2]

_roots = {"fleetnet": ".", "fleetnet_device": "device_lib"}
_all = library([__import__("pathlib").Path(_here, root, name) for name, root in _roots.items()])
_parts = None if options.parts == "all" else [p.strip() for p in options.parts.split(",")]
for _name, _root in _roots.items():
    _files = [module.target for module in choose(_all, _parts).values()]
    _files = [target.partition("/")[2] for target in _files if target.startswith(_name + "/")]
    package(_name, files=_files, base_path=_root)
