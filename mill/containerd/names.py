"""What a reference points to in containerd. Called by `images`; asks the metadata store only.

A digest means the same whatever name it came by: an image that was pulled by its tag is there for whoever asks for the
digest in the same repository, as with Docker.
"""

from mill.containerd import rpcs
from mill.containerd.faults import RpcNotFound
from mill.containerd.proto import images_pb2
from mill.containerd.reference import Reference, parse
from mill.containerd.session import Session


async def image_of(session: Session, ref: Reference) -> images_pb2.Image | None:
    """The entry that *ref* stands for, None when nothing here bears that name or has that digest."""
    try:
        request = images_pb2.GetImageRequest(name=ref.normalised)
        found = [(await session.call(rpcs.IMAGES_GET, request)).image]
    except RpcNotFound:
        found = []
    if ref.digest is not None and not any(image.target.digest == ref.digest for image in found):
        listing = images_pb2.ListImagesRequest(filters=[f"target.digest=={ref.digest}"])
        listed = (await session.call(rpcs.IMAGES_LIST, listing)).images
        found = [image for image in listed if _repository(image.name) == (ref.host, ref.repository)]
    return found[0] if found else None


def _repository(name: str) -> tuple[str, str] | None:
    """Of an image's name; other clients of containerd may have given it any."""
    try:
        ref = parse(name)
    except ValueError:
        return None
    return ref.host, ref.repository
