"""Messages of containerd's API: our own small ``.proto`` files and, beside each, the module generated from it.

`mill.containerd.rpcs` names the methods that carry them. Numbers and names are containerd's, so nothing here may be
changed without looking there. ``python -m mill.containerd.proto.generate`` writes the modules again.
"""
