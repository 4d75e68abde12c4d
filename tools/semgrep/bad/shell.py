import os
import subprocess


def convert(name):
    subprocess.run(["convert", name], shell=True)
    os.system("rm " + name)
