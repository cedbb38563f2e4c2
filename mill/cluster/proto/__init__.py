"""What members say to each other, as bytes: ``.proto`` files and, beside each, the module generated from it. Pure.

`mill.cluster.wire` turns them into values. Numbers are never given a new meaning: nodes of different versions talk to each
other during an upgrade. ``python -m mill.containerd.proto.generate`` writes the modules again.
"""
