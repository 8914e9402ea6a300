"""Package description; here and not in pyproject.toml, because the setuptools of ROS 2 Humble ignores it there."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "vgssl_ros"
ROOT = Path(__file__).parent


def shared(folder: str) -> list[tuple[str, list[str]]]:
    """A folder's files for ``share/vgssl_ros``, one entry per subfolder."""
    folders = [path for path in [ROOT / folder, *sorted((ROOT / folder).rglob("*"))] if path.is_dir()]
    listed = [
        (path, sorted(str(f.relative_to(ROOT)) for f in path.iterdir() if f.suffix != ".pyc" and f.is_file()))
        for path in folders
    ]
    return [(f"share/{NAME}/{path.relative_to(ROOT)}", files) for path, files in listed if files]


setup(
    name=NAME,
    version="0.1.0",
    description="Where am I on Earth? Visual geo-localization with self-supervised descriptors, for ROS 2",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    maintainer="vgssl_ros maintainers",
    maintainer_email="maintainers@vgssl-ros.example",
    python_requires=">=3.10",
    packages=find_packages(include=["vgssl_core*", "training*", "vgssl_ros*"]),
    package_data={"vgssl_core.evaluation": ["*.j2"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *shared("launch"),
        *shared("config"),
    ],
    install_requires=[
        "setuptools",
        "numpy>=1.24",
        "scipy>=1.8",
        # Not opencv-python: it needs libGL, which a fresh machine lacks.
        "opencv-python-headless>=4.5",
        "onnxruntime>=1.17",
        "PyYAML>=5.4",
        "pyproj>=3.3",
        "pyarrow>=12",
        "Pillow>=9.0",
        "rosbags>=0.10",
        "jsonargparse[signatures]>=4.49",
        "docstring-parser>=0.15",
        "tqdm>=4.57",
        "matplotlib>=3.5",
        "Jinja2>=3.0",
    ],
    extras_require={
        # Two wheels provide the module faiss and must never both be installed, so it is an extra of its own.
        "cpu": ["faiss-cpu>=1.8"],
        "gpu": ["faiss-gpu-cu12>=1.8; platform_machine == 'x86_64'", "cuda-python>=12; platform_machine == 'x86_64'"],
        "train": [
            "torch>=2.4",
            "torchvision>=0.19",
            "timm>=1.0",
            "safetensors>=0.4",
            "huggingface_hub>=0.20",
            "onnx>=1.16",
            "onnxscript>=0.5",
            "tensorboard>=2.12",
        ],
        "ros": [
            f"{package}; platform_machine == 'x86_64' and python_version >= '3.11'"
            for package in (
                "ros-rclpy[fastrtps]",
                "ros-std-msgs",
                "ros-sensor-msgs",
                "ros-geometry-msgs",
                "ros-nav-msgs",
                "ros-diagnostic-msgs",
                "ros-lifecycle-msgs",
                "ros-rosgraph-msgs",
                "ros-std-srvs",
                "ros-visualization-msgs",
            )
        ],
        "openvino": ["openvino>=2024.0"],
        # On a Jetson it comes with JetPack; PyPI's wheels for ARM are made for servers.
        "tensorrt": ["tensorrt>=10.3; platform_machine == 'x86_64'"],
        "test": [
            "pytest>=7",
            "hypothesis>=6",
            "ruff==0.17.5",
            "colcon-common-extensions",
            "onnx>=1.16",
            # Independent losses to compare ours with; the two excluded releases were malicious.
            "lightly>=1.5",
            "pytorch-lightning!=2.6.2,!=2.6.3",
            "pytorch-metric-learning>=2.3",
        ],
    },
    entry_points={
        "console_scripts": [
            "vgssl = training.vgssl:main",
            "localizer_node = vgssl_ros.localizer_node:main",
            "evaluate_bag = vgssl_ros.evaluate_bag:main",
            "replay = vgssl_ros.replay:main",
            "initial_pose = vgssl_ros.initial_pose:main",
        ]
    },
    zip_safe=True,
)
