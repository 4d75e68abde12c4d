import time


async def wait():
    time.sleep(1)
