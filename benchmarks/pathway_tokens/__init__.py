"""Do pathway tokens find a response that they were not told of?"""
