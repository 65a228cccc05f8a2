// A pool of threads that sleep between calls, so that they use no CPU time meanwhile.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "vectors.hpp"

namespace dcp {

class Threads {
public:
    explicit Threads(Index count) {
        for (Index i = 1; i < count; ++i) helpers_.emplace_back([this] { serve(); });
    }

    ~Threads() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            ended_ = true;
            round_.fetch_add(1);
        }
        begin_.notify_all();
        for (std::thread& helper : helpers_) helper.join();
    }

    Index count() const { return static_cast<Index>(helpers_.size()) + 1; }

    // Runs work(0) ... work(jobs - 1), each once, in any order; returns when all are done. One caller at a time.
    void run(Index jobs, const std::function<void(Index)>& work) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            work_ = &work, jobs_ = jobs, next_ = 0, busy_ = static_cast<Index>(helpers_.size());
            round_.fetch_add(1);
        }
        begin_.notify_all();
        take(work, jobs);
        if (watched([this] { return busy_.load() == 0; })) return;
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return busy_.load() == 0; });
    }

private:
    // Waking a thread takes as long as a small layer, so a waiting thread polls for a moment before it sleeps.
    template <class Condition>
    static bool watched(const Condition& condition) {
        const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(100);
        while (!condition())
            if (std::chrono::steady_clock::now() > end) return false;
        return true;
    }

    void take(const std::function<void(Index)>& work, Index jobs) {
        for (Index job; (job = next_.fetch_add(1)) < jobs;) work(job);
    }

    void serve() {
        for (Index seen = 0;;) {
            const auto begun = [&] { return round_.load() != seen; };
            if (!watched(begun)) {
                std::unique_lock<std::mutex> lock(mutex_);
                begin_.wait(lock, begun);
            }
            std::unique_lock<std::mutex> lock(mutex_);
            if (ended_) return;
            seen = round_.load();
            const std::function<void(Index)>& work = *work_;
            const Index jobs = jobs_;
            lock.unlock();
            take(work, jobs);
            lock.lock();
            if (busy_.fetch_sub(1) == 1) done_.notify_one();
        }
    }

    std::vector<std::thread> helpers_;
    std::mutex mutex_;
    std::condition_variable begin_, done_;
    const std::function<void(Index)>* work_ = nullptr;
    std::atomic<Index> next_{0}, round_{0}, busy_{0};
    Index jobs_ = 0;
    bool ended_ = false;
};

}  // namespace dcp
